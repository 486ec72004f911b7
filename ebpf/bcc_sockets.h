/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * What a socket is: its addresses, its protocol, whose it is.
 */
#ifndef BCC_SOCKETS_H
#define BCC_SOCKETS_H

static __always_inline bool is_inet(u16 family)
{
	return family == AF_INET || family == AF_INET6;
}

static __always_inline u16 read_family(struct sock *sk)
{
	return FETCH(sk->__sk_common.skc_family);
}

/* 16 bytes for every address: IPv4 as ::ffff:a.b.c.d, so that one peer has one name on either kind of socket.
 * The unspecified address is all zero. */
static __always_inline void map_ipv4(u8 *to, __be32 address)
{
	u32 *words = (u32 *)to;

	words[0] = 0;
	words[1] = 0;
	words[2] = address ? bpf_htonl(0xffff) : 0;
	words[3] = address;
}

static __always_inline void read_remote(struct sock *sk, u8 *remote)
{
	if (read_family(sk) == AF_INET6)
		bpf_probe_read_kernel(remote, 16, &sk->__sk_common.skc_v6_daddr);
	else
		map_ipv4(remote, FETCH(sk->__sk_common.skc_daddr));
}

static __always_inline void read_local(struct sock *sk, u8 *local)
{
	if (read_family(sk) == AF_INET6)
		bpf_probe_read_kernel(local, 16, &sk->__sk_common.skc_v6_rcv_saddr);
	else
		map_ipv4(local, FETCH(sk->__sk_common.skc_rcv_saddr));
}

static __always_inline u16 read_remote_port(struct sock *sk)
{
	return bpf_ntohs(FETCH(sk->__sk_common.skc_dport));
}

/* sk_protocol is meaningless for AF_PACKET (an ethertype). */
static __always_inline u16 read_protocol(struct sock *sk)
{
	return is_inet(read_family(sk)) ? FETCH(sk->sk_protocol) : 0;
}

static __always_inline bool is_datagram(u16 protocol)
{
	return protocol != IPPROTO_TCP && protocol != IPPROTO_MPTCP && protocol != IPPROTO_SCTP;
}

static __always_inline bool is_udp(u16 protocol)
{
	return protocol == IPPROTO_UDP || protocol == IPPROTO_UDPLITE;
}

/* A raw socket that is connected has an address and no port. */
static __always_inline bool is_unconnected(struct sock *sk)
{
	u64 remote[2];

	if (read_remote_port(sk))
		return false;
	read_remote(sk, (u8 *)remote);
	return !remote[0] && !remote[1];
}

/* Of the peer that a call has named, or a packet came from. False where it names none. */
static __always_inline bool read_sockaddr(const struct sockaddr *address, struct call *call)
{
	const struct sockaddr_in6 *ipv6 = (const void *)address;
	const struct sockaddr_in *ipv4 = (const void *)address;
	u16 family;

	if (!address)
		return false;
	family = FETCH(address->sa_family);
	if (family == AF_INET6) {
		bpf_probe_read_kernel(call->remote_address, 16, &ipv6->sin6_addr);
		call->remote_port = bpf_ntohs(FETCH(ipv6->sin6_port));
	} else if (family == AF_INET || family == AF_UNSPEC) {
		/* AF_UNSPEC is taken for AF_INET by the kernel. */
		map_ipv4(call->remote_address, FETCH(ipv4->sin_addr.s_addr));
		call->remote_port = bpf_ntohs(FETCH(ipv4->sin_port));
	} else {
		return false;
	}
	return true;
}

static __always_inline void read_source(struct sk_buff *skb, u8 *address)
{
	unsigned char *header = FETCH(skb->head) + FETCH(skb->network_header);
	u8 version = 0;
	__be32 source = 0;

	bpf_probe_read_kernel(&version, sizeof(version), header);
	if (version >> 4 == 6) {
		bpf_probe_read_kernel(address, 16, header + offsetof(struct ipv6hdr, saddr));
		return;
	}
	bpf_probe_read_kernel(&source, sizeof(source), header + offsetof(struct iphdr, saddr));
	map_ipv4(address, source);
}

/* Encryption in the kernel (kTLS) hands out plain text without advancing copied_seq; every MPTCP subflow has a
 * ULP as well. */
static __always_inline const struct tcp_ulp_ops *get_ulp(struct sock *sk)
{
	return FETCH(((struct inet_connection_sock *)sk)->icsk_ulp_ops);
}

/* Subflows carry what their MPTCP socket was already charged for. */
static __always_inline bool is_subflow(struct sock *sk)
{
	const struct tcp_ulp_ops *ulp;
	char name[4] = {};

	if (read_protocol(sk) != IPPROTO_TCP)
		return false;
	ulp = get_ulp(sk);
	if (!ulp)
		return false;
	bpf_probe_read_kernel(name, sizeof(name), ulp->name);
	return name[0] == 'm' && name[1] == 'p' && name[2] == 't' && name[3] == 'c';
}

static __always_inline u32 read_copied_seq(struct sock *sk)
{
	return FETCH(((struct tcp_sock *)sk)->copied_seq);
}

/* What the kernel's cookie program (make_cookie) has given it, by which DNS answers are told apart as well. Sockets
 * from before the start and accepted ones have none: the number of their inode, marked by the top bit. */
static __always_inline u64 read_cookie(struct sock *sk)
{
	u64 cookie = FETCH(sk->__sk_common.skc_cookie.counter);
	struct socket_alloc *alloc;
	struct socket *socket;

	if (cookie)
		return cookie;
	socket = FETCH(sk->sk_socket);
	if (!socket)
		return 1ULL << 63;
	/* Not container_of(), which BCC takes for a read of the socket. */
	alloc = (void *)socket - offsetof(struct socket_alloc, socket);
	return 1ULL << 63 | FETCH(alloc->vfs_inode.i_ino);
}

/* Charges a socket to the calling process. */
static __always_inline void write_owner(struct socket_state *state, struct task_struct *task)
{
	read_key(task, &state->owner);
	read_executable(task, &state->executable);
	state->uid = read_uid(task);
	state->flags = is_kernel_thread(task) ? FLOW_KERNEL : 0;
}

/* Not while a thread takes it over: what is counted by then may be reported as the owner's before. */
static __always_inline bool is_owner(const struct socket_state *state, struct task_struct *task)
{
	return state->provisional != OWNER_CHANGES && state->owner.tgid == (u32)FETCH(task->tgid) &&
	       state->owner.exec_id == FETCH(task->self_exec_id);
}

static __always_inline void read_tuple(struct sock *sk, struct socket_state *state)
{
	read_local(sk, state->local_address);
	read_remote(sk, state->remote_address);
	state->local_port = FETCH(sk->__sk_common.skc_num);
	state->remote_port = read_remote_port(sk);
}

/* Whether the calling process owns the socket and has not been introduced as its owner. */
static __always_inline bool is_unknown_owner(struct socket_state *state)
{
	if (state->flags & SOCKET_INTRODUCED || !is_owner(state, get_task()))
		return false;
	state->flags |= SOCKET_INTRODUCED;
	return true;
}

static __always_inline struct socket_state *find_socket(struct sock *sk)
{
	u64 key = (u64)sk;

	return sockets.lookup(&key);
}

/* A socket's state, made at the first sight of the socket, in its user's context. NULL where the map is full: the
 * caller counts in the flows map. */
static __always_inline struct socket_state *claim(struct sock *sk)
{
	struct socket_state *state = find_socket(sk), *fresh;
	u64 key = (u64)sk;
	u32 zero = 0;

	if (state)
		return state;
	fresh = fresh_sockets.lookup(&zero);
	if (!fresh)
		return NULL;
	__builtin_memset(fresh, 0, sizeof(*fresh));
	fresh->cookie = read_cookie(sk);
	fresh->family = read_family(sk);
	fresh->protocol = read_protocol(sk);
	fresh->netns = read_netns(sk);
	read_tuple(sk, fresh);
	/* One that was open before anybody looked counts from here on. */
	if (fresh->protocol == IPPROTO_TCP)
		fresh->copied_seq = read_copied_seq(sk);
	write_owner(fresh, get_task());
	/* Or, where two threads come at once, the one that the other has made. */
	if (!sockets.insert(&key, fresh))
		add_socket_count(1);
	state = sockets.lookup(&key);
	if (!state)
		add_counter(COUNTER_STORAGE_FAILED, 1);
	return state;
}

#endif
