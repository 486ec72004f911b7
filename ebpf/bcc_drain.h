/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * Drains, in place of iterators: filters at a socket that user space writes to, once for each run. They put what is
 * pending into the ring. A record is reserved before its counts are taken, so that what finds no room stays where it
 * is until the next drain.
 */
#ifndef BCC_DRAIN_H
#define BCC_DRAIN_H

/* Of a run, so that the verifier gets to its end. User space runs them until one moves less. */
#define RUN_MAX 64

/* True where the drain that runs has met this one before: it is through with all. */
static __always_inline bool is_met(u64 *round, const struct drain_block *block)
{
	if (*round == block->round)
		return true;
	*round = block->round;
	return false;
}

/* Puts a socket back into the queue. */
static __always_inline void requeue_socket(u64 *key, struct socket_state *state)
{
	state->is_queued = 1;
	if (dirty_sockets.push(key, 0))
		state->is_queued = 0;
	raise_dirty(DIRTY_SOCKETS);
}

/* True where the run has to end. */
static __always_inline bool drain_socket(u64 *key, struct drain_block *block)
{
	struct socket_state *state = sockets.lookup(key);
	struct flow_record *record;
	u64 cookie, provisional;

	if (!state)
		return false;
	/* First: who counts from now on puts it into the queue again. */
	state->is_queued = 0;
	if (!has_counts(state))
		return false;
	if (state->protocol == IPPROTO_MPTCP && !state->remote_port)
		read_tuple((struct sock *)*key, state);
	provisional = state->provisional;
	if (provisional) {
		bool was_met = is_met(&state->waited_round, block);

		if (was_met || !has_waited(state, provisional)) {
			requeue_socket(key, state);
			return was_met;
		}
	}
	record = records.ringbuf_reserve(sizeof(struct flow_record));
	if (!record) {
		add_counter(COUNTER_LIVE_RECORDS_DELAYED, 1);
		requeue_socket(key, state);
		block->is_stopped = 1;
		return true;
	}
	cookie = state->cookie;
	if (!report(record, state, provisional)) {
		records.ringbuf_discard(record, BPF_RB_NO_WAKEUP);
		requeue_socket(key, state);
		return false;
	}
	if (state->cookie != cookie) {
		/* Released meanwhile, and its place in the map given to another one, which counts it later. */
		__sync_fetch_and_add(&state->transmit_bytes, record->transmit_bytes);
		__sync_fetch_and_add(&state->receive_bytes, record->receive_bytes);
		__sync_fetch_and_add(&state->transmit_calls, record->transmit_calls);
		__sync_fetch_and_add(&state->receive_calls, record->receive_calls);
		__sync_fetch_and_add(&state->connections, record->connections);
		__sync_fetch_and_add(&state->connect_failures, record->connect_failures);
		records.ringbuf_discard(record, BPF_RB_NO_WAKEUP);
		return false;
	}
	records.ringbuf_submit(record, BPF_RB_NO_WAKEUP);
	return false;
}

static __always_inline struct drain_block *begin_run(void)
{
	struct drain_block *block = get_drain();

	if (!block)
		return NULL;
	block->moved = 0;
	block->is_stopped = 0;
	block->unread_bytes = 0;
	return block;
}

int drain_sockets(struct __sk_buff *skb)
{
	struct drain_block *block = begin_run();
	struct control *control = get_control();
	u64 key = 0;

	if (!block || !control)
		return 0;
	for (int i = 0; i < RUN_MAX; i++) {
		if (dirty_sockets.pop(&key))
			break;
		if (drain_socket(&key, block))
			break;
		block->moved++;
	}
	control->socket_entries = block->socket_count;
	return 0;
}

static __always_inline bool drain_flow(struct flow_key *key, struct drain_block *block)
{
	struct flow_state *flow = flows.lookup(key);
	struct flow_record *record;

	if (!flow)
		return false;
	flow->is_queued = 0;
	if (!has_traffic(flow))
		return false;
	record = records.ringbuf_reserve(sizeof(struct flow_record));
	if (!record) {
		add_counter(COUNTER_LIVE_RECORDS_DELAYED, 1);
		queue_flow(key, flow);
		block->is_stopped = 1;
		return true;
	}
	flow->idle_rounds = 0;
	fill_from_flow(record, key, flow);
	records.ringbuf_submit(record, BPF_RB_NO_WAKEUP);
	return false;
}

int drain_flows(struct __sk_buff *skb)
{
	struct drain_block *block = begin_run();
	struct flow_key key = {};

	if (!block)
		return 0;
	for (int i = 0; i < RUN_MAX; i++) {
		if (dirty_flows.pop(&key))
			break;
		if (drain_flow(&key, block))
			break;
		block->moved++;
	}
	return 0;
}

/* One expiring drain marks an idle flow closing, from when on no program adds to it; the next one, long after any program
 * that had looked it up has returned, deletes it. */
static __always_inline bool age_flow(struct flow_key *key, struct drain_block *block)
{
	struct flow_state *flow = flows.lookup(key);
	struct control *control = get_control();
	bool was_met;

	if (!flow || !control)
		return false;
	was_met = is_met(&flow->aged_round, block);
	if (!was_met && !has_traffic(flow)) {
		if (flow->closing) {
			if (!flows.delete(key))
				add_flow_count(-1);
			return false;
		}
		if (++flow->idle_rounds >= control->flow_idle_rounds)
			flow->closing = 1;
	}
	ages.push(key, 0);
	return was_met;
}

int expire_flows(struct __sk_buff *skb)
{
	struct drain_block *block = begin_run();
	struct flow_key key = {};

	if (!block)
		return 0;
	for (int i = 0; i < RUN_MAX; i++) {
		if (ages.pop(&key))
			break;
		if (age_flow(&key, block))
			break;
		block->moved++;
	}
	return 0;
}

int drain_fallback(struct __sk_buff *skb)
{
	struct drain_block *block = begin_run();
	struct control *control = get_control();
	struct flow_record *record, *late;
	u32 zero = 0;

	late = moved_records.lookup(&zero);
	if (!block || !control || !late)
		return 0;
	for (int i = 0; i < RUN_MAX; i++) {
		record = records.ringbuf_reserve(sizeof(struct flow_record));
		if (!record) {
			block->is_stopped = 1;
			raise_dirty(DIRTY_FALLBACK);
			break;
		}
		if (fallback.pop(late)) {
			records.ringbuf_discard(record, BPF_RB_NO_WAKEUP);
			break;
		}
		__builtin_memcpy(record, late, sizeof(*record));
		records.ringbuf_submit(record, BPF_RB_NO_WAKEUP);
		add_late_count(-1);
		block->moved++;
	}
	control->fallback_entries = block->late_count;
	return 0;
}

#endif
