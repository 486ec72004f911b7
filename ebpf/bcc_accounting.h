/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * Where bytes are counted: a socket's state for its owner, a flow for everything else, as in accounting.h.
 */
#ifndef BCC_ACCOUNTING_H
#define BCC_ACCOUNTING_H

static __always_inline void push_late(struct socket_state *state, u16 flags)
{
	struct flow_record *late;
	u32 zero = 0;

	late = late_records.lookup(&zero);
	if (!late)
		return;
	fill_record(late, state, flags);
	take_counts(late, state);
	if (!fallback.push(late, 0)) {
		add_counter(COUNTER_FALLBACK_RECORDS, 1);
		add_late_count(1);
		raise_dirty(DIRTY_FALLBACK);
		return;
	}
	add_counter(COUNTER_LOST_FINAL_RECORDS, 1);
	add_counter(COUNTER_LOST_FINAL_TRANSMIT_BYTES, late->transmit_bytes);
	add_counter(COUNTER_LOST_FINAL_RECEIVE_BYTES, late->receive_bytes);
}

/* The last record of a socket, or (flags 0) the last of its traffic with the peer it has had so far. */
static __always_inline void push(struct socket_state *state, u16 flags)
{
	struct flow_record *record = records.ringbuf_reserve(sizeof(struct flow_record));

	if (!record) {
		push_late(state, flags);
		return;
	}
	fill_record(record, state, flags);
	take_counts(record, state);
	records.ringbuf_submit(record, wakeup_flag(sizeof(struct flow_record)));
}

/* Has the next drain look at a socket: once, however often it counts until then. */
static __always_inline void queue_socket(struct sock *sk, struct socket_state *state)
{
	u64 key = (u64)sk;

	if (state->is_queued || __sync_lock_test_and_set(&state->is_queued, 1))
		return;
	if (dirty_sockets.push(&key, 0)) {
		/* Tried again with the next call; what is left at its release is in its final record. */
		state->is_queued = 0;
		add_counter(COUNTER_LIVE_RECORDS_DELAYED, 1);
		return;
	}
	raise_dirty(DIRTY_SOCKETS);
}

static __always_inline void count_socket(struct sock *sk, struct socket_state *state, long bytes,
					 bool transmit)
{
	if (!counts_bytes())
		bytes = 0;
	if (transmit) {
		__sync_fetch_and_add(&state->transmit_bytes, bytes);
		__sync_fetch_and_add(&state->transmit_calls, 1);
	} else {
		__sync_fetch_and_add(&state->receive_bytes, bytes);
		__sync_fetch_and_add(&state->receive_calls, 1);
	}
	queue_socket(sk, state);
}

enum flow_kind {
	KIND_TRANSMIT = 1,
	KIND_NEW_PAIR = 2, /* the first of its socket and peer is a connection */
};

static __always_inline bool make_flow(struct sock *sk, struct task_struct *task,
				      struct flow_key *key, u32 kind)
{
	struct task_struct *leader = FETCH(task->group_leader);
	struct flow_state *flow;
	u32 zero = 0;

	flow = fresh_flows.lookup(&zero);
	if (!flow)
		return false;
	__builtin_memset(flow, 0, sizeof(*flow));
	flow->start_ns = FETCH(leader->start_boottime);
	read_executable(task, &flow->executable);
	if (is_inet(key->family)) {
		read_local(sk, flow->local_address);
		flow->local_port = FETCH(sk->__sk_common.skc_num);
	}
	flow->netns = read_netns(sk);
	flow->uid = read_uid(task);
	flow->flags = is_kernel_thread(task) ? FLOW_KERNEL : 0;
	if (kind & KIND_NEW_PAIR) {
		flow->direction = kind & KIND_TRANSMIT ? DIRECTION_OUTBOUND : DIRECTION_INBOUND;
		flow->connections = 1;
	} else {
		flow->flags |= FLOW_SHARED;
	}
	/* Never overwrites what another thread has made meanwhile. */
	if (!flows.insert(key, flow)) {
		add_flow_count(1);
		ages.push(key, 0);
	}
	return true;
}

static __always_inline void queue_flow(struct flow_key *key, struct flow_state *flow)
{
	if (flow->is_queued || __sync_lock_test_and_set(&flow->is_queued, 1))
		return;
	if (dirty_flows.push(key, 0)) {
		flow->is_queued = 0;
		add_counter(COUNTER_LIVE_RECORDS_DELAYED, 1);
		return;
	}
	raise_dirty(DIRTY_FLOWS);
}

static __always_inline bool has_room_for_peers(void)
{
	struct control *control = get_control();

	return control && control->flow_count < FLOWS_OF_PEERS;
}

/* Adds one call to the flow of the calling process with `key`'s peer. False where the map is full: the caller has to
 * count it elsewhere. */
static __always_inline bool count_flow(struct sock *sk, struct flow_key *key, long bytes, u32 kind,
				       bool *is_new)
{
	struct task_struct *task = get_task();
	struct flow_state *flow;

	key->exec_id = FETCH(task->self_exec_id);
	key->tgid = FETCH(task->tgid);
	flow = flows.lookup(key);
	if (flow && flow->closing) {
		/* The next one, for as long as that is there. */
		key->is_second = 1;
		flow = flows.lookup(key);
	}
	if (!flow) {
		if (!make_flow(sk, task, key, kind))
			return false;
		*is_new = true;
		flow = flows.lookup(key);
		if (!flow)
			return false;
	}
	if (!counts_bytes())
		bytes = 0;
	if (kind & KIND_TRANSMIT) {
		__sync_fetch_and_add(&flow->transmit_bytes, bytes);
		__sync_fetch_and_add(&flow->transmit_calls, 1);
	} else {
		__sync_fetch_and_add(&flow->receive_bytes, bytes);
		__sync_fetch_and_add(&flow->receive_calls, 1);
	}
	queue_flow(key, flow);
	return true;
}

static __always_inline void count_lost(long bytes, bool transmit)
{
	add_counter(transmit ? COUNTER_LOST_TRANSMIT_BYTES : COUNTER_LOST_RECEIVE_BYTES, bytes);
}

/* Of the traffic with a socket's own peer. */
static __always_inline void fill_key(struct flow_key *key, struct sock *sk)
{
	key->cookie = read_cookie(sk);
	key->family = read_family(sk);
	key->protocol = read_protocol(sk);
	if (is_inet(key->family)) {
		read_remote(sk, key->remote_address);
		key->remote_port = read_remote_port(sk);
	}
}

/* Of the traffic of an unconnected datagram socket with one of its peers. Where the call names nobody it is the last
 * one that was named. False where there was none, or no room is left for another one. */
static __always_inline bool fill_peer_key(struct flow_key *key, struct socket_state *state,
					  const struct call *call)
{
	const u64 *noted = (const u64 *)state->remote_address;

	if (call->has_peer) {
		__builtin_memcpy(key->remote_address, call->remote_address, 16);
		key->remote_port = call->remote_port;
		__builtin_memcpy(state->remote_address, call->remote_address, 16);
		state->remote_port = call->remote_port;
	} else if (noted[0] || noted[1]) {
		__builtin_memcpy(key->remote_address, state->remote_address, 16);
		key->remote_port = state->remote_port;
	} else {
		return false;
	}
	key->cookie = state->cookie;
	key->family = state->family;
	key->protocol = state->protocol;
	if (has_room_for_peers())
		return true;
	add_counter(COUNTER_FLOWS_FULL, 1);
	return false;
}

static __always_inline bool has_peer_changed(struct sock *sk, const struct socket_state *state)
{
	const u64 *then = (const u64 *)state->remote_address;
	u64 now[2];

	if (read_remote_port(sk) != state->remote_port)
		return true;
	read_remote(sk, (u8 *)now);
	return now[1] != then[1] || now[0] != then[0];
}

/* connect() again, or a first connect() after sendto(): what was counted so far belongs to the peer before. */
static __always_inline void change_peer(struct sock *sk, struct socket_state *state)
{
	if (has_counts(state))
		push(state, 0);
	read_tuple(sk, state);
	state->direction = DIRECTION_UNKNOWN;
	state->flags &= ~SOCKET_OPENED;
}

/* Datagrams: a connection is the first one with a peer. SCTP's associations, which are established in softirq: the first
 * use of one that was not accepted. */
static __always_inline void count_first(struct sock *sk, struct socket_state *state, bool transmit)
{
	bool is_stream = state->protocol == IPPROTO_SCTP && FETCH(sk->sk_type) == SOCK_STREAM;

	if (state->direction != DIRECTION_UNKNOWN || state->flags & SOCKET_OPENED)
		return;
	if (!is_datagram(state->protocol) && state->protocol != IPPROTO_SCTP)
		return;
	state->flags |= SOCKET_OPENED;
	state->direction = transmit || is_stream ? DIRECTION_OUTBOUND : DIRECTION_INBOUND;
	__sync_fetch_and_add(&state->connections, 1);
}

/* One call of the calling process that moved bytes on any socket. Returns true where that has to be introduced. */
static __always_inline bool count(struct sock *sk, const struct call *call, long bytes,
				  bool transmit)
{
	u32 kind = transmit ? KIND_TRANSMIT : 0;
	struct socket_state *state = NULL;
	bool is_new = false, has_key = false;
	struct flow_key key = {};

	if (is_inet(read_family(sk)))
		state = claim(sk);
	if (!state) {
		kind |= KIND_NEW_PAIR;
	} else {
		take_over(state, get_task());
		is_new = is_unknown_owner(state);
		if (!is_datagram(state->protocol)) {
			/* An MPTCP socket gets its addresses after it was established. */
			if (!state->remote_port)
				read_tuple(sk, state);
		} else if (is_unconnected(sk)) {
			has_key = fill_peer_key(&key, state, call);
			if (has_key)
				kind |= KIND_NEW_PAIR;
		} else if (has_peer_changed(sk, state)) {
			change_peer(sk, state);
		}
		if (!has_key && is_owner(state, get_task())) {
			count_first(sk, state, transmit);
			count_socket(sk, state, bytes, transmit);
			return is_new;
		}
	}
	if (!has_key)
		fill_key(&key, sk);
	if (!count_flow(sk, &key, bytes, kind, &is_new))
		count_lost(bytes, transmit);
	return is_new;
}

#endif
