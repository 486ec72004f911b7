/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * Records, from what all plans keep under the same names: what has been counted is taken, the rest is copied.
 */
#ifndef REPORTS_H
#define REPORTS_H

static __always_inline void fill_record(struct flow_record *record,
					const struct socket_state *state, __u16 flags)
{
	record->header.kind = RECORD_FLOW;
	record->header.flags = flags | state->flags | (state->provisional ? FLOW_PROVISIONAL : 0);
	record->header.pad = 0;
	record->header.time_ns = bpf_ktime_get_boot_ns();
	read_owner(state, &record->owner);
	record->executable = state->executable;
	record->cookie = state->cookie;
	__builtin_memcpy(record->local_address, state->local_address, 16);
	__builtin_memcpy(record->remote_address, state->remote_address, 16);
	record->local_port = state->local_port;
	record->remote_port = state->remote_port;
	record->protocol = state->protocol;
	record->family = state->family;
	record->direction = state->direction;
	record->netns = state->netns;
	record->uid = state->uid;
}

/* Most counters of most records are 0, and an atomic exchange takes longer than to look. What is added in between is of the
 * next record. A call's bytes are added before the call: taken in the other order, what is left behind is at most a call
 * without its bytes. */
#define TAKE(counter) ((counter) ? __sync_lock_test_and_set(&(counter), 0) : 0)

static __always_inline void take_counts(struct flow_record *record, struct socket_state *state)
{
	record->transmit_calls = TAKE(state->transmit_calls);
	record->receive_calls = TAKE(state->receive_calls);
	record->transmit_bytes = TAKE(state->transmit_bytes);
	record->receive_bytes = TAKE(state->receive_bytes);
	record->connections = TAKE(state->connections);
	record->connect_failures = TAKE(state->connect_failures);
}

static __always_inline bool has_counts(const struct socket_state *state)
{
	return state->transmit_calls || state->receive_calls || state->transmit_bytes ||
	       state->receive_bytes || state->connections || state->connect_failures;
}

static __always_inline bool has_traffic(const struct flow_state *flow)
{
	return flow->transmit_calls || flow->receive_calls || flow->transmit_bytes ||
	       flow->receive_bytes;
}

static __always_inline void fill_from_flow(struct flow_record *record, const struct flow_key *key,
					   struct flow_state *flow)
{
	record->header.kind = RECORD_FLOW;
	record->header.flags = flow->flags;
	record->header.pad = 0;
	record->header.time_ns = bpf_ktime_get_boot_ns();
	record->owner.start_ns = flow->start_ns;
	record->owner.exec_id = key->exec_id;
	record->owner.tgid = key->tgid;
	record->owner.pad = 0;
	record->executable = flow->executable;
	record->cookie = key->cookie;
	record->transmit_calls = TAKE(flow->transmit_calls);
	record->receive_calls = TAKE(flow->receive_calls);
	record->transmit_bytes = TAKE(flow->transmit_bytes);
	record->receive_bytes = TAKE(flow->receive_bytes);
	record->connections = TAKE(flow->connections);
	record->connect_failures = 0;
	__builtin_memcpy(record->local_address, flow->local_address, 16);
	__builtin_memcpy(record->remote_address, key->remote_address, 16);
	record->local_port = flow->local_port;
	record->remote_port = key->remote_port;
	record->protocol = key->protocol;
	record->family = key->family;
	record->direction = flow->direction;
	record->netns = flow->netns;
	record->uid = flow->uid;
}

/* Returns the length of the command line; what is behind it in the record is of an earlier one. */
static __always_inline __u64 fill_process(struct process_record *record, struct process_node *node,
					  const struct process_key *key, __u8 generation,
					  __u16 flags)
{
	__u64 length = node->cmdline_bytes;

	if (length > CMDLINE_BYTES)
		length = CMDLINE_BYTES;
	record->header.kind = RECORD_PROCESS;
	record->header.flags = node->flags | flags;
	record->header.pad = 0;
	record->header.time_ns = bpf_ktime_get_boot_ns();
	record->key = *key;
	record->parent = node->parent;
	record->executable = node->executable;
	record->exec_ns = node->exec_ns;
	record->changed_ns = node->changed_ns;
	record->cgroup_id = node->cgroup_id;
	record->cgroup1_id = node->cgroup1_id;
	record->uid = node->uid;
	record->cmdline_bytes = length;
	record->generation = generation;
	record->pad = 0;
	__builtin_memcpy(record->comm, node->comm, COMM_BYTES);
	bpf_probe_read_kernel(record->cmdline, length & (2 * CMDLINE_BYTES - 1), node->cmdline);
	return length;
}

#endif
