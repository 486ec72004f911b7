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

/* At the other end of a datagram, in host byte order; all zero where that is not known. */
struct peer {
	__u64 address[2];
	__u16 port;
};

static __always_inline void set_peer(struct peer *peer, const __u8 *address, __u16 port)
{
	const __u64 *words = (const __u64 *)address;

	peer->address[0] = words[0];
	peer->address[1] = words[1];
	peer->port = port;
}

/* The peer of the datagram at hand, cleared so that it serves one call only. */
static __always_inline bool take_peer(struct peer *peer)
{
	struct peer_note *note = find_note();

	if (!note || !note->set)
		return false;
	note->set = 0;
	set_peer(peer, note->address, note->port);
	return true;
}

/* Where a call names nobody: whom the packet hooks have noted. That is the last one, and right as long as there is
 * one at a time. Nothing was noted while the socket's receives named their peers. */
static __always_inline void guess_peer(struct socket_state *state, struct peer *peer, bool transmit)
{
	if (!transmit && state->names_peers)
		state->names_peers = 0;
	else
		set_peer(peer, state->noted_address, state->noted_port);
}

static __always_inline bool find_peer(struct peer *peer, const struct peer_note *named)
{
	if (!named || !named->set)
		return take_peer(peer);
	set_peer(peer, named->address, named->port);
	return true;
}

static __always_inline void copy_peer(struct flow_key *key, const struct peer *peer)
{
	__builtin_memcpy(key->remote_address, peer->address, 16);
	key->remote_port = peer->port;
}

/* Traffic of a process that does not own the socket, or of one whose state nobody has written yet. */
static __noinline int count_elsewhere(struct sock *sk, long bytes, __u32 transmit,
				      __u32 is_new_pair, const struct peer_note *named)
{
	struct flow_key key = {};
	struct peer peer;

	if (!sk)
		return 0;
	key.cookie = bpf_get_socket_cookie(sk);
	key.family = sk->__sk_common.skc_family;
	key.protocol = read_protocol(sk);
	if (is_inet(key.family)) {
		if (is_datagram(key.protocol) && is_unconnected(sk) && find_peer(&peer, named)) {
			copy_peer(&key, &peer);
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

static __always_inline bool is_peer(const struct socket_state *state, const struct peer *peer)
{
	const __u64 *ours = (const __u64 *)state->remote_address;

	return peer->port == state->remote_port && peer->address[1] == ours[1] &&
	       peer->address[0] == ours[0];
}

static __always_inline bool has_peer_changed(struct sock *sk, const struct socket_state *state)
{
	const __u32 *ours = (const __u32 *)state->remote_address;
	const struct in6_addr *now = &sk->__sk_common.skc_v6_daddr;

	if (bpf_ntohs(sk->__sk_common.skc_dport) != state->remote_port)
		return true;
	/* Mapped (map_ipv4). */
	if (sk->__sk_common.skc_family == AF_INET)
		return sk->__sk_common.skc_daddr != ours[3];
	return now->in6_u.u6_addr32[3] != ours[3] || now->in6_u.u6_addr32[2] != ours[2] ||
	       now->in6_u.u6_addr32[1] != ours[1] || now->in6_u.u6_addr32[0] != ours[0];
}

/* Written once: what the socket's counters are for from now on. */
static __noinline int settle(struct sock *sk, struct socket_state *state, const struct peer *peer)
{
	struct peer nobody = {};

	if (!sk || !state || !peer)
		return 0;
	/* It was connected before. */
	if (!is_peer(state, &nobody) && !is_peer(state, peer))
		change_peer(sk, state);
	read_local(sk, state->local_address);
	state->local_port = sk->__sk_common.skc_num;
	__builtin_memcpy(state->remote_address, peer->address, 16);
	state->remote_port = peer->port;
	asm volatile("" ::: "memory");
	state->is_settled = 1;
	return 0;
}

static __always_inline __u64 hash_of(const struct peer *peer)
{
	/* The lowest bit keeps it from being 0, so the port stands above it. */
	return ((peer->address[0] * 0x9e3779b97f4a7c15ULL ^ peer->address[1]) *
			0x9e3779b97f4a7c15ULL +
		((__u64)peer->port << 1)) |
	       1;
}

/* Whether the socket's own counters are for this peer, the first one of an unconnected socket (all zero where the first
 * call's is not known). Most have no other, and need no flow. Two threads that come with the same peer at once must not
 * both begin a pair with it: the hash decides until the peer is written. */
static __always_inline bool is_first_peer(struct sock *sk, struct socket_state *state,
					  const struct peer *peer)
{
	__u64 mine, first;

	if (state->is_settled)
		return is_peer(state, peer);
	mine = hash_of(peer);
	first = __sync_val_compare_and_swap(&state->first_peer, 0, mine);
	if (!first)
		settle(sk, state, peer);
	return !first || first == mine;
}

/* A datagram of an unconnected socket that a flow counts: from or for another peer than the socket's first, or of another
 * process. False where there is no room, and the socket's counters are to. */
static __noinline bool count_peer(struct sock *sk, struct socket_state *state,
				  const struct peer *peer, long bytes, __u32 kind)
{
	struct flow_key key = {};

	if (!sk || !state || !peer)
		return false;
	key.cookie = state->cookie;
	/* Another thread is claiming the socket. */
	if (!key.cookie)
		key.cookie = bpf_get_socket_cookie(sk);
	key.family = sk->__sk_common.skc_family;
	key.protocol = sk->sk_protocol;
	copy_peer(&key, peer);
	if (count_flow(sk, &key, bytes, kind | KIND_NEW_PAIR | KIND_OPTIONAL))
		return true;
	add_counter(COUNTER_FLOWS_FULL, 1);
	return false;
}

/* An unconnected datagram socket. True where a flow has counted the call, false where the socket's counters are to. */
static __always_inline bool count_datagram(struct sock *sk, struct socket_state *state, long bytes,
					   bool transmit, const struct peer_note *named)
{
	bool is_ours = is_owner(state, bpf_get_current_task_btf());
	struct peer peer = {}, nobody = {};

	if (find_peer(&peer, named)) {
		if (!transmit && !state->names_peers)
			state->names_peers = 1;
	} else {
		guess_peer(state, &peer, transmit);
	}
	if (is_ours && is_first_peer(sk, state, &peer))
		return false;
	if (count_peer(sk, state, &peer, bytes, transmit ? KIND_TRANSMIT : 0))
		return true;
	/* Without a peer then: what the first one has moved is reported, and the unconnected socket's own tuple is
	 * read, which has none. */
	if (is_ours && !is_peer(state, &nobody))
		change_peer(sk, state);
	return false;
}

/* `named` is the peer that the call itself names, where the hook sees that. */
static __always_inline int count(struct sock *sk, int bytes, bool transmit,
				 const struct peer_note *named)
{
	struct task_struct *task = bpf_get_current_task_btf();
	__u16 protocol = sk->sk_protocol;
	struct socket_state *state;

	if (!is_inet(sk->__sk_common.skc_family))
		return count_elsewhere(sk, bytes, transmit, 1, NULL);
	state = bpf_sk_storage_get(&sockets, sk, NULL, 0);
	if (!state || !state->owner_tgid) {
		state = claim(sk);
		if (!state) {
			/* With storage, another process is claiming it right now, which counts the connection. */
			state = bpf_sk_storage_get(&sockets, sk, NULL, 0);
			return count_elsewhere(sk, bytes, transmit, !state, named);
		}
	}
	if (take_over(state, task))
		introduce();
	if (is_datagram(protocol)) {
		if (is_unconnected(sk)) {
			if (count_datagram(sk, state, bytes, transmit, named))
				return 0;
		} else if (has_peer_changed(sk, state)) {
			change_peer(sk, state);
		}
	} else if (!state->remote_port) {
		/* An MPTCP socket gets its addresses after it was established. */
		read_tuple(sk, state);
	}
	if (!is_owner(state, task))
		return count_elsewhere(sk, bytes, transmit, 0, named);
	if (state->direction == DIRECTION_UNKNOWN && is_datagram(protocol) &&
	    !(__sync_fetch_and_or(&state->flags, SOCKET_OPENED) & SOCKET_OPENED)) {
		state->direction = transmit ? DIRECTION_OUTBOUND : DIRECTION_INBOUND;
		__sync_fetch_and_add(&state->connections, 1);
	}
	count_socket(state, bytes, transmit);
	return 0;
}

static __always_inline int count_sent(struct sock *sk, int result, const struct peer_note *named)
{
	struct peer discarded;

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
	struct peer discarded;

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
