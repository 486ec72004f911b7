/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * Where bytes are counted: a socket's state for its first user, a flow for everything else.
 */
#ifndef ACCOUNTING_H
#define ACCOUNTING_H

static __always_inline bool is_network(__u16 family)
{
	return family == AF_INET || family == AF_INET6 || family == AF_PACKET || family == AF_VSOCK;
}

static __always_inline bool is_inet(__u16 family)
{
	return family == AF_INET || family == AF_INET6;
}

/* 16 bytes for every address: IPv4 as ::ffff:a.b.c.d, so that one peer has one name on either kind of socket.
 * The unspecified address is all zero. */
static __always_inline void map_ipv4(__u8 *to, __be32 address)
{
	__u32 *words = (__u32 *)to;

	words[0] = 0;
	words[1] = 0;
	words[2] = address ? bpf_htonl(0xffff) : 0;
	words[3] = address;
}

static __always_inline void copy_words(__u8 *to, __u32 first, __u32 second, __u32 third,
				       __u32 fourth)
{
	__u32 *words = (__u32 *)to;

	words[0] = first;
	words[1] = second;
	words[2] = third;
	words[3] = fourth;
}

static __always_inline void read_ipv6(const struct in6_addr *address, __u8 *to)
{
	copy_words(to, address->in6_u.u6_addr32[0], address->in6_u.u6_addr32[1],
		   address->in6_u.u6_addr32[2], address->in6_u.u6_addr32[3]);
}

static __always_inline void read_remote(struct sock *sk, __u8 *remote)
{
	if (sk->__sk_common.skc_family == AF_INET6)
		read_ipv6(&sk->__sk_common.skc_v6_daddr, remote);
	else
		map_ipv4(remote, sk->__sk_common.skc_daddr);
}

static __always_inline void read_local(struct sock *sk, __u8 *local)
{
	if (sk->__sk_common.skc_family == AF_INET6)
		read_ipv6(&sk->__sk_common.skc_v6_rcv_saddr, local);
	else
		map_ipv4(local, sk->__sk_common.skc_rcv_saddr);
}

/* sk_protocol is meaningless for AF_PACKET (an ethertype) and AF_VSOCK. */
static __always_inline __u16 read_protocol(struct sock *sk)
{
	return is_inet(sk->__sk_common.skc_family) ? sk->sk_protocol : 0;
}

static __always_inline bool is_datagram(__u16 protocol)
{
	return protocol != IPPROTO_TCP && protocol != IPPROTO_MPTCP && protocol != IPPROTO_SCTP;
}

/* A raw socket that is connected has an address and no port. */
static __always_inline bool is_unconnected(struct sock *sk)
{
	const struct in6_addr *remote = &sk->__sk_common.skc_v6_daddr;

	if (sk->__sk_common.skc_dport)
		return false;
	if (sk->__sk_common.skc_family == AF_INET)
		return !sk->__sk_common.skc_daddr;
	return !(remote->in6_u.u6_addr32[0] | remote->in6_u.u6_addr32[1] |
		 remote->in6_u.u6_addr32[2] | remote->in6_u.u6_addr32[3]);
}

static __always_inline void read_tuple(struct sock *sk, struct socket_state *state)
{
	read_local(sk, state->local_address);
	read_remote(sk, state->remote_address);
	state->local_port = sk->__sk_common.skc_num;
	state->remote_port = bpf_ntohs(sk->__sk_common.skc_dport);
}

/* Only whoever turns `claimed` from 0 to its mark may write the owner. */
static __always_inline __u32 mark_of(struct task_struct *task)
{
	return 1U << 31 | task->tgid;
}

static __always_inline bool may_claim(struct socket_state *state, struct task_struct *task)
{
	return !__sync_val_compare_and_swap(&state->claimed, 0, mark_of(task));
}

/* Also while another thread of the process is about to write that it is. Not while one takes the socket over: what is
 * counted by then may be reported as the owner's before. */
static __always_inline bool is_owner(const struct socket_state *state, struct task_struct *task)
{
	if (state->provisional == OWNER_CHANGES)
		return false;
	if (state->owner_tgid == (__u32)task->tgid &&
	    state->owner_exec_id == (__u32)task->self_exec_id)
		return true;
	return !state->owner_tgid && state->claimed == mark_of(task);
}

/* Makes the process the owner. Only whoever may_claim(), and take_over(), may. */
static __always_inline void write_owner(struct socket_state *state, struct task_struct *task)
{
	struct process_key key = {};

	read_key(task, &key);
	state->executable.inode = 0;
	state->executable.device = 0;
	state->executable.generation = 0;
	read_executable(task, &state->executable);
	state->uid = task->cred->uid.val;
	/* Not stored: another thread may be setting SOCKET_OPENED. */
	if (task->flags & PF_KTHREAD)
		__sync_fetch_and_or(&state->flags, FLOW_KERNEL);
	else
		__sync_fetch_and_and(&state->flags, ~FLOW_KERNEL);
	state->owner_start_ns = key.start_ns;
	state->owner_exec_id = key.exec_id;
	asm volatile("" ::: "memory");
	state->owner_tgid = key.tgid;
}

/* A socket that was open before anybody looked counts from here on. */
static __always_inline void start_copied_seq(struct sock *sk, struct socket_state *state)
{
	struct tcp_sock *tcp;

	if (state->protocol != IPPROTO_TCP || state->has_copied_seq)
		return;
	tcp = bpf_skc_to_tcp_sock(sk);
	if (!tcp)
		return;
	state->copied_seq = tcp->copied_seq;
	state->has_copied_seq = 1;
}

/* After a time in which nothing was counted: that has to stay uncounted. */
static __always_inline void restart_copied_seq(struct sock *sk, struct socket_state *state)
{
	if (!state->owner_tgid)
		return;
	state->has_copied_seq = 0;
	start_copied_seq(sk, state);
}

static __always_inline void read_kind(struct sock *sk, struct socket_state *state)
{
	state->family = sk->__sk_common.skc_family;
	state->protocol = read_protocol(sk);
	state->netns = sk->__sk_common.skc_net.net->ns.inum;
}

/* All that a claimed socket has. What the packet hooks have noted stays, and an unconnected socket's first peer, which
 * another thread of the process may be writing. */
static __always_inline void begin(struct sock *sk, struct socket_state *state, __u64 cookie,
				  struct task_struct *owner)
{
	state->cookie = cookie;
	read_kind(sk, state);
	read_local(sk, state->local_address);
	state->local_port = sk->__sk_common.skc_num;
	if (!is_unconnected(sk)) {
		read_remote(sk, state->remote_address);
		state->remote_port = bpf_ntohs(sk->__sk_common.skc_dport);
	}
	start_copied_seq(sk, state);
	write_owner(state, owner);
}

/* First sight of a socket, in its user's context; its owner may be written a moment later by another thread. NULL where
 * there can be no storage (option memory exhausted) or another process is claiming it at this moment: the caller
 * counts in the flows map then. */
static __noinline struct socket_state *claim(struct sock *sk)
{
	struct task_struct *task = bpf_get_current_task_btf();
	struct socket_state *state;

	if (!sk)
		return NULL;
	if (is_abandoned()) {
		add_counter(COUNTER_IDLED_CALLS, 1);
		return NULL;
	}
	state = bpf_sk_storage_get(&sockets, sk, NULL, BPF_LOCAL_STORAGE_GET_F_CREATE);
	/* Of two threads that create it at once, one gets none. */
	if (!state)
		state = bpf_sk_storage_get(&sockets, sk, NULL, 0);
	if (!state) {
		add_counter(COUNTER_STORAGE_FAILED, 1);
		return NULL;
	}
	if (!may_claim(state, task))
		return state->owner_tgid || is_owner(state, task) ? state : NULL;
	begin(sk, state, bpf_get_socket_cookie(sk), task);
	introduce();
	return state;
}

/* The ring is full. */
static __noinline int push_late(struct socket_state *state, __u64 key, __u32 flags)
{
	struct flow_record late = {};

	if (!state)
		return 0;
	fill_record(&late, state, flags);
	take_counts(&late, state);
	if (!bpf_map_update_elem(&fallback, &key, &late, BPF_NOEXIST)) {
		add_counter(COUNTER_FALLBACK_RECORDS, 1);
		raise(&control.fallback_dirty);
		return 0;
	}
	add_counter(COUNTER_LOST_FINAL_RECORDS, 1);
	add_counter(COUNTER_LOST_FINAL_TRANSMIT_BYTES, late.transmit_bytes);
	add_counter(COUNTER_LOST_FINAL_RECEIVE_BYTES, late.receive_bytes);
	return 0;
}

/* The last record of a socket, or (flags 0) the last of its traffic with the peer it has had so far. Through the
 * ring; where that is full through the fallback map, whose key the caller chooses. */
static __always_inline void push(struct socket_state *state, __u64 fallback_key, __u16 flags)
{
	struct flow_record *record = bpf_ringbuf_reserve(&records, sizeof(*record), 0);

	if (!record) {
		push_late(state, fallback_key, flags);
		return;
	}
	fill_record(record, state, flags);
	take_counts(record, state);
	bpf_ringbuf_submit(record, wakeup_flag(sizeof(*record), true));
}

static __always_inline void make_flow(struct sock *sk, struct task_struct *task,
				      const struct flow_key *key, struct flow_state *flow,
				      bool transmit, bool is_new_pair)
{
	flow->start_ns = task->group_leader->start_boottime;
	read_executable(task, &flow->executable);
	read_local(sk, flow->local_address);
	flow->local_port = sk->__sk_common.skc_num;
	flow->netns = sk->__sk_common.skc_net.net->ns.inum;
	flow->uid = task->cred->uid.val;
	flow->flags = task->flags & PF_KTHREAD ? FLOW_KERNEL : 0;
	if (is_new_pair) {
		flow->direction = transmit ? DIRECTION_OUTBOUND : DIRECTION_INBOUND;
		flow->connections = 1;
	} else {
		flow->flags |= FLOW_SHARED;
	}
}

enum flow_kind {
	KIND_TRANSMIT = 1,
	KIND_NEW_PAIR = 2, /* the first of its socket and peer is a connection */
	KIND_OPTIONAL = 4, /* the caller can count it under the socket as well */
};

/* On its own, since what it makes is large, and the stack of all functions on the way is 512 bytes until 6.12. */
static __noinline int add_flow(struct sock *sk, const struct flow_key *key, enum flow_kind kind)
{
	struct flow_state fresh = {};

	if (!sk || !key)
		return 0;
	make_flow(sk, bpf_get_current_task_btf(), key, &fresh, kind & KIND_TRANSMIT,
		  kind & KIND_NEW_PAIR);
	/* BPF_NOEXIST: a race with another thread must not overwrite what that one has added. */
	if (!bpf_map_update_elem(&flows, key, &fresh, BPF_NOEXIST))
		__sync_fetch_and_add(&control.flow_count, 1);
	return 0;
}

/* Adds one call to the flow of the calling process with `key`'s peer. False where the map is full or the flow
 * is being expired: the caller has to count it elsewhere. */
static __noinline bool count_flow(struct sock *sk, struct flow_key *key, long bytes,
				  enum flow_kind kind)
{
	struct task_struct *task = bpf_get_current_task_btf();
	bool transmit = kind & KIND_TRANSMIT;
	struct flow_state *flow;

	if (!sk || !key)
		return false;
	key->exec_id = task->self_exec_id;
	key->tgid = task->tgid;
	flow = bpf_map_lookup_elem(&flows, key);
	if (!flow) {
		if (is_abandoned())
			return false;
		if (kind & KIND_OPTIONAL && control.flow_count >= FLOWS_OF_PEERS)
			return false;
		add_flow(sk, key, kind);
		flow = bpf_map_lookup_elem(&flows, key);
		if (!flow)
			return false;
		introduce();
	}
	if (flow->closing)
		return false;
	if (transmit) {
		if (control.count_bytes)
			__sync_fetch_and_add(&flow->transmit_bytes, bytes);
		__sync_fetch_and_add(&flow->transmit_calls, 1);
	} else {
		if (control.count_bytes)
			__sync_fetch_and_add(&flow->receive_bytes, bytes);
		__sync_fetch_and_add(&flow->receive_calls, 1);
	}
	raise(&control.flows_dirty);
	return true;
}

static __always_inline void count_socket(struct socket_state *state, long bytes, bool transmit)
{
	if (transmit) {
		if (control.count_bytes)
			__sync_fetch_and_add(&state->transmit_bytes, bytes);
		__sync_fetch_and_add(&state->transmit_calls, 1);
	} else {
		if (control.count_bytes)
			__sync_fetch_and_add(&state->receive_bytes, bytes);
		__sync_fetch_and_add(&state->receive_calls, 1);
	}
	raise(&control.sockets_dirty);
}

static __always_inline void count_lost(long bytes, bool transmit)
{
	if (!is_active())
		return;
	add_counter(transmit ? COUNTER_LOST_TRANSMIT_BYTES : COUNTER_LOST_RECEIVE_BYTES, bytes);
}

#endif
