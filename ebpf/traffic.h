/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * What a finished call has moved, and with whom: the part that all plans share, whatever hook has told of the call.
 */
#ifndef TRAFFIC_H
#define TRAFFIC_H

/* The kernel's own decryption (kTLS) hands out plain text without advancing copied_seq; every MPTCP subflow has
 * a ULP as well. */
static __always_inline const struct tcp_ulp_ops *get_ulp(struct sock *sk)
{
	struct tcp_sock *tcp = bpf_skc_to_tcp_sock(sk);

	return tcp ? tcp->inet_conn.icsk_ulp_ops : NULL;
}

/* Subflows carry what their MPTCP socket was already charged for. */
static __always_inline bool is_subflow(struct sock *sk)
{
	const struct tcp_ulp_ops *ulp = get_ulp(sk);
	char name[4] = {};

	if (!ulp)
		return false;
	bpf_probe_read_kernel(name, sizeof(name), ulp->name);
	return name[0] == 'm' && name[1] == 'p' && name[2] == 't' && name[3] == 'c';
}

/* The peer of the datagram at hand, cleared so that it serves one call only. */
static __always_inline bool take_peer(struct flow_key *key)
{
	struct peer_note *note = find_note();

	if (!note || !note->set)
		return false;
	note->set = 0;
	__builtin_memcpy(key->remote_address, note->address, 16);
	key->remote_port = note->port;
	return true;
}

/* Where a call names nobody: whom the packet hooks have noted. That is the last one, and right as long as there is
 * one at a time. Nothing was noted while the socket's receives named their peers. */
static __always_inline bool guess_peer(struct socket_state *state, struct flow_key *key,
				       bool transmit)
{
	const __u64 *noted = (const __u64 *)state->noted_address;

	if (!transmit && state->names_peers) {
		state->names_peers = 0;
		return false;
	}
	if (!noted[0] && !noted[1])
		return false;
	__builtin_memcpy(key->remote_address, state->noted_address, 16);
	key->remote_port = state->noted_port;
	return true;
}

static __always_inline bool find_peer(struct flow_key *key, const struct peer_note *named)
{
	if (!named || !named->set)
		return take_peer(key);
	__builtin_memcpy(key->remote_address, named->address, 16);
	key->remote_port = named->port;
	return true;
}

/* Traffic of a process that does not own the socket, or of one whose state nobody has written yet. */
static __noinline int count_elsewhere(struct sock *sk, long bytes, __u32 transmit,
				      __u32 is_new_pair, const struct peer_note *named)
{
	struct flow_key key = {};

	if (!sk)
		return 0;
	key.cookie = bpf_get_socket_cookie(sk);
	key.family = sk->__sk_common.skc_family;
	key.protocol = read_protocol(sk);
	if (is_inet(key.family)) {
		if (is_datagram(key.protocol) && is_unconnected(sk) && find_peer(&key, named)) {
			is_new_pair = 1;
		} else {
			read_remote(sk, key.remote_address);
			key.remote_port = bpf_ntohs(sk->__sk_common.skc_dport);
		}
	}
	if (!count_flow(sk, &key, bytes, transmit | (is_new_pair ? KIND_NEW_PAIR : 0)))
		count_lost(bytes, transmit);
	return 0;
}

/* An unconnected datagram socket: a flow for each peer. Returns true where that counted the call. */
static __noinline bool count_peer(struct sock *sk, struct socket_state *state, long bytes,
				  __u32 transmit, const struct peer_note *named)
{
	struct flow_key key = {};

	if (!sk || !state)
		return false;
	if (find_peer(&key, named)) {
		if (!transmit && !state->names_peers)
			state->names_peers = 1;
	} else if (!guess_peer(state, &key, transmit)) {
		return false;
	}
	key.cookie = state->cookie;
	key.family = state->family;
	key.protocol = state->protocol;
	if (count_flow(sk, &key, bytes, transmit | KIND_NEW_PAIR | KIND_OPTIONAL))
		return true;
	add_counter(COUNTER_FLOWS_FULL, 1);
	return false;
}

/* connect() again, or a first connect() after sendto(): what was counted so far belongs to the peer before. */
static __noinline int change_peer(struct sock *sk, struct socket_state *state)
{
	if (!sk || !state)
		return 0;
	if (has_counts(state))
		push(state, bpf_ktime_get_boot_ns() | 1ULL << 63, 0);
	read_tuple(sk, state);
	state->direction = DIRECTION_UNKNOWN;
	__sync_fetch_and_and(&state->flags, ~SOCKET_OPENED);
	return 0;
}

static __always_inline bool has_peer_changed(struct sock *sk, const struct socket_state *state)
{
	const __u64 *then = (const __u64 *)state->remote_address;
	__u64 now[2];

	if (bpf_ntohs(sk->__sk_common.skc_dport) != state->remote_port)
		return true;
	read_remote(sk, (__u8 *)now);
	return now[1] != then[1] || now[0] != then[0];
}

/* `named` is the peer that the call itself names, where the hook sees that. */
static __always_inline int count(struct sock *sk, int bytes, bool transmit,
				 const struct peer_note *named)
{
	struct task_struct *task = bpf_get_current_task_btf();
	__u16 family = sk->__sk_common.skc_family;
	struct socket_state *state;

	if (!is_inet(family))
		return count_elsewhere(sk, bytes, transmit, 1, NULL);
	state = bpf_sk_storage_get(&sockets, sk, NULL, 0);
	if (!state || !state->owner.tgid) {
		state = claim(sk);
		if (!state) {
			/* With storage, somebody else is claiming it right now, who counts the connection. */
			state = bpf_sk_storage_get(&sockets, sk, NULL, 0);
			return count_elsewhere(sk, bytes, transmit, !state, named);
		}
	}
	if (state->provisional && __sync_lock_test_and_set(&state->provisional, 0)) {
		write_owner(state, task);
		introduce();
	}
	if (is_datagram(state->protocol)) {
		if (is_unconnected(sk) && count_peer(sk, state, bytes, transmit, named))
			return 0;
		if (has_peer_changed(sk, state))
			change_peer(sk, state);
	} else if (!state->remote_port) {
		/* An MPTCP socket gets its addresses after it was established. */
		read_tuple(sk, state);
	}
	if (!is_owner(state, task))
		return count_elsewhere(sk, bytes, transmit, 0, named);
	if (state->direction == DIRECTION_UNKNOWN && is_datagram(state->protocol) &&
	    !(__sync_fetch_and_or(&state->flags, SOCKET_OPENED) & SOCKET_OPENED)) {
		state->direction = transmit ? DIRECTION_OUTBOUND : DIRECTION_INBOUND;
		__sync_fetch_and_add(&state->connections, 1);
	}
	count_socket(state, bytes, transmit);
	return 0;
}

static __always_inline int count_sent(struct sock *sk, int result, const struct peer_note *named)
{
	struct flow_key discarded;

	if (result >= 0)
		return count(sk, result, true, named);
	if (sk->sk_protocol != IPPROTO_TCP)
		take_peer(&discarded);
	return 0;
}

static __always_inline int count_received(struct sock *sk, int result, int flags,
					  const struct peer_note *named)
{
	struct socket_state *state;
	struct flow_key discarded;

	if (result < 0 || flags & (MSG_PEEK | MSG_ERRQUEUE)) {
		if (sk->sk_protocol != IPPROTO_TCP)
			take_peer(&discarded);
		return 0;
	}
	if (sk->sk_protocol == IPPROTO_TCP && is_inet(sk->__sk_common.skc_family)) {
		/* End of file; everything else is counted by copied_seq, unless there is no storage to keep it in. */
		if (!result)
			return 0;
		state = bpf_sk_storage_get(&sockets, sk, NULL, 0);
		if (state && !get_ulp(sk))
			return 0;
	}
	return count(sk, result, false, named);
}

#endif
