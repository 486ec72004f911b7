/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * Iterators: they run when user space reads them, and put what is pending into the ring. A record is reserved
 * before its counts are taken, so that what finds no room stays where it is until the next drain.
 */
#ifndef DRAIN_H
#define DRAIN_H

/* From an iterator: ends the read with EAGAIN, and the next one begins with the same element. Going on to look at
 * 100,000 of them for which there is no room would take all of a processor. */
#define STOP 1

SEC("iter/bpf_sk_storage_map")
int drain_sockets(struct bpf_iter__bpf_sk_storage_map *context)
{
	struct socket_state *state = context->value;
	struct sock *sk = context->sk;
	struct flow_record *record;
	__u32 provisional;

	if (!state || !sk)
		return 0;
	control.socket_entries++;
	if (!state->owner_tgid || !has_counts(state))
		return 0;
	if (state->first_peer && !state->is_settled) {
		/* Its peer is being written at this moment. */
		raise(&control.sockets_dirty);
		return 0;
	}
	if (state->protocol == IPPROTO_MPTCP && !state->remote_port)
		read_tuple(sk, state);
	provisional = state->provisional;
	/* Not accept()ed yet: nobody's connection. */
	if (provisional && (!sk->sk_socket || !has_waited(state, provisional))) {
		raise(&control.sockets_dirty);
		return 0;
	}
	record = bpf_ringbuf_reserve(&records, sizeof(*record), 0);
	if (!record) {
		add_counter(COUNTER_LIVE_RECORDS_DELAYED, 1);
		raise(&control.sockets_dirty);
		control.socket_entries--;
		return STOP;
	}
	if (!report(record, state, provisional)) {
		bpf_ringbuf_discard(record, BPF_RB_NO_WAKEUP);
		raise(&control.sockets_dirty);
		return 0;
	}
	bpf_ringbuf_submit(record, BPF_RB_NO_WAKEUP);
	return 0;
}

/* Reports a flow, or expires it: one expiring drain marks it closing, from when on no program adds to it; the next one,
 * long after any program that had looked it up has returned, takes what is left and deletes it. */
SEC("iter/bpf_map_elem")
int drain_flows(struct bpf_iter__bpf_map_elem *context)
{
	const struct flow_key *current_key = context->key;
	struct flow_record *record;
	struct flow_state *flow;
	struct flow_key key;

	if (!current_key)
		return 0;
	key = *current_key;
	flow = bpf_map_lookup_elem(&flows, &key);
	if (!flow)
		return 0;
	control.flow_entries++;
	if (!has_traffic(flow)) {
		if (!control.expire_flows)
			return 0;
		if (flow->closing && !bpf_map_delete_elem(&flows, &key))
			__sync_fetch_and_add(&control.flow_count, -1);
		else if (++flow->idle_rounds >= control.flow_idle_rounds)
			flow->closing = 1;
		return 0;
	}
	record = bpf_ringbuf_reserve(&records, sizeof(*record), 0);
	if (!record) {
		add_counter(COUNTER_LIVE_RECORDS_DELAYED, 1);
		raise(&control.flows_dirty);
		control.flow_entries--;
		return STOP;
	}
	flow->idle_rounds = 0;
	fill_from_flow(record, &key, flow);
	bpf_ringbuf_submit(record, BPF_RB_NO_WAKEUP);
	return 0;
}

/* Moves final records that found the ring full. An entry is written once and never added to, so it may go as
 * soon as it has been copied. */
SEC("iter/bpf_map_elem")
int drain_fallback(struct bpf_iter__bpf_map_elem *context)
{
	struct flow_record *record, *late;
	const __u64 *current_key = context->key;
	__u64 key;

	if (!current_key)
		return 0;
	key = *current_key;
	late = bpf_map_lookup_elem(&fallback, &key);
	if (!late)
		return 0;
	control.fallback_entries++;
	record = bpf_ringbuf_reserve(&records, sizeof(*record), 0);
	if (!record) {
		raise(&control.fallback_dirty);
		control.fallback_entries--;
		return STOP;
	}
	__builtin_memcpy(record, late, sizeof(*record));
	bpf_ringbuf_submit(record, BPF_RB_NO_WAKEUP);
	bpf_map_delete_elem(&fallback, &key);
	/* The iterator goes on from the entry just deleted; where that is in use again already, it passes over the rest of
	 * its bucket (kernel/bpf/hashtab.c, bpf_hash_map_seq_find_next()). So the next drain looks once more, until
	 * there is nothing. */
	raise(&control.fallback_dirty);
	return 0;
}

/* Processes that ran before the programs were attached. */
SEC("iter/task")
int find_processes(struct bpf_iter__task *context)
{
	struct task_struct *task = context->task;

	if (task && task->pid == task->tgid)
		know(task, BY_HELPER);
	return 0;
}

/* What user space has been told of already, for a reader that starts anew, and what it could not be told of: whole
 * records, into the file that is read, not into the ring, which can be full. */
SEC("iter/bpf_map_elem")
int introduce_again(struct bpf_iter__bpf_map_elem *context)
{
	struct process_node *node = context->value;
	struct process_record *record;
	struct process_key key;
	__u32 zero = 0;

	if (!node || !node->key.tgid || !node->sent)
		return 0;
	if (control.introduce_late && !(node->sent & SENT_LATE))
		return 0;
	record = bpf_map_lookup_elem(&scratch, &zero);
	if (!record)
		return 0;
	key = node->key;
	fill_process(record, node, &key, 0, 0);
	/* Where its buffer is full the iterator comes back to this node with a larger one. */
	if (!bpf_seq_write(context->meta->seq, record, sizeof(*record)))
		node->sent = (node->sent & ~SENT_LATE) | SENT_AS_ANCESTOR;
	return 0;
}

/* Sockets that were open before the programs were attached, by the first process that has them. */
SEC("iter/task_file")
int find_sockets(struct bpf_iter__task_file *context)
{
	struct task_struct *task = context->task;
	struct file *file = context->file;
	struct socket_state *state;
	struct socket *socket;
	struct sock *sk;

	if (!task || !file)
		return 0;
	socket = bpf_sock_from_file(file);
	if (!socket)
		return 0;
	sk = socket->sk;
	if (!sk || !is_inet(sk->__sk_common.skc_family))
		return 0;
	state = bpf_sk_storage_get(&sockets, sk, NULL, BPF_LOCAL_STORAGE_GET_F_CREATE);
	if (!state)
		return 0;
	if (!may_claim(state, task)) {
		if (!control.active)
			restart_copied_seq(sk, state);
		return 0;
	}
	/* Whoever uses it next is its owner, and is introduced then. */
	state->provisional = 1;
	begin(sk, state, bpf_get_socket_cookie(sk), task->group_leader);
	return 0;
}

#endif
