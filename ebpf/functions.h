/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * The plan 'fexit': the ends of the functions that a protocol's socket calls go through, for kernels whose
 * tracepoints don't say what a call has moved. Their msghdr names the peer of a datagram. What fails, peeks, and TCP's
 * receives are treated as everywhere (traffic.h).
 *
 *   inet_sendmsg, inet6_sendmsg   every send of AF_INET and AF_INET6: TCP, UDP, UDP-Lite, raw, ping, SCTP, MPTCP, DCCP,
 *                                 L2TP; MPTCP's subflows are fed from below (net/mptcp/protocol.c), so it counts once
 *   inet_recvmsg, inet6_recvmsg   every receive of them but those of
 *   sock_common_recvmsg           raw and ping sockets of IPv6, DCCP, L2TP (rawv6_prot's ops in net/ipv6/raw.c, ...)
 *   inet_sendpage                 sendfile() and splice() to TCP and UDP until 6.4 (gone with dc97391e6610)
 *   packet_*, vsock_*             AF_PACKET and AF_VSOCK
 */
#ifndef FUNCTIONS_H
#define FUNCTIONS_H

enum {
	SOCKADDR_IN_BYTES = 8, /* of struct sockaddr_in up to its address */
	SOCKADDR_IN6_BYTES = 24,
};

/* struct sockaddr_in and struct sockaddr_in6: uapi, their layout is fixed. */
struct socket_name {
	__u16 family;
	__be16 port;
	union {
		__be32 ipv4;
		struct {
			__u32 flow;
			__u8 ipv6[16];
		};
	};
};

/* Only of an unconnected datagram socket: the others have one peer, and TCP leaves the name as it was. */
static __always_inline bool is_named(struct sock *sk)
{
	return is_datagram(sk->sk_protocol) && is_unconnected(sk);
}

static __always_inline void read_name(struct sock *sk, struct msghdr *message,
				      struct peer_note *named)
{
	const void *address = message->msg_name;
	int bytes = message->msg_namelen;
	struct socket_name name = {};

	if (!address || bytes < SOCKADDR_IN_BYTES)
		return;
	if (bytes < SOCKADDR_IN6_BYTES)
		bpf_probe_read_kernel(&name, SOCKADDR_IN_BYTES, address);
	else
		bpf_probe_read_kernel(&name, SOCKADDR_IN6_BYTES, address);
	/* udp_sendmsg() and raw_sendmsg() take AF_UNSPEC for AF_INET. */
	if (name.family == AF_UNSPEC && sk->__sk_common.skc_family == AF_INET)
		name.family = AF_INET;
	if (name.family == AF_INET)
		map_ipv4(named->address, name.ipv4);
	else if (name.family == AF_INET6 && bytes >= SOCKADDR_IN6_BYTES)
		__builtin_memcpy(named->address, name.ipv6, 16);
	else
		return;
	/* That of a raw socket's name is a protocol, or nothing. */
	named->port = is_raw(sk) ? 0 : bpf_ntohs(name.port);
	named->set = 1;
}

/* sendfile() to UDP falls back to inet_sendmsg() where the device takes no pages (udp_sendpage() in net/ipv4/udp.c),
 * and then both functions end. */
static __always_inline bool is_by_pages(struct sock *sk)
{
	struct socket_state *state;
	struct peer_note *note;

	if (sk->sk_protocol != IPPROTO_UDP && sk->sk_protocol != IPPROTO_UDPLITE)
		return false;
	state = bpf_sk_storage_get(&sockets, sk, NULL, 0);
	if (!state || !state->by_pages)
		return false;
	note = find_note();
	return note && note->by_pages;
}

static __noinline int end_send(struct socket *socket, struct msghdr *message, int result)
{
	struct peer_note named = {};
	struct sock *sk;

	if (!socket || !message || !is_active())
		return 0;
	sk = socket->sk;
	if (!sk || !is_inet(sk->__sk_common.skc_family) || is_by_pages(sk))
		return 0;
	if (result >= 0 && is_named(sk))
		read_name(sk, message, &named);
	return count_sent(sk, result, &named);
}

static __noinline int end_receive(struct socket *socket, struct msghdr *message, int flags,
				  int result)
{
	struct peer_note named = {};
	struct sock *sk;

	if (!socket || !message || !is_active())
		return 0;
	sk = socket->sk;
	if (!sk || !is_inet(sk->__sk_common.skc_family))
		return 0;
	if (result >= 0 && is_named(sk))
		read_name(sk, message, &named);
	return count_received(sk, result, flags, &named);
}

/* AF_PACKET and AF_VSOCK: counted in flows, without a peer. */
static __always_inline int end_other(struct socket *socket, int flags, int result, bool transmit)
{
	struct sock *sk;

	if (!is_active() || result < 0 || flags & (MSG_PEEK | MSG_ERRQUEUE))
		return 0;
	sk = socket->sk;
	return sk ? count_elsewhere(sk, result, transmit, 1, NULL) : 0;
}

SEC("fexit/inet_sendmsg")
int BPF_PROG(inet_sendmsg, struct socket *socket, struct msghdr *message, __u64 size, int ret)
{
	return end_send(socket, message, ret);
}

SEC("fexit/inet6_sendmsg")
int BPF_PROG(inet6_sendmsg, struct socket *socket, struct msghdr *message, __u64 size, int ret)
{
	return end_send(socket, message, ret);
}

SEC("fexit/packet_sendmsg")
int BPF_PROG(packet_sendmsg, struct socket *socket, struct msghdr *message, __u64 size, int ret)
{
	return end_other(socket, 0, ret, true);
}

/* The one of SOCK_PACKET sockets, as of Linux 2.0. */
SEC("fexit/packet_sendmsg_spkt")
int BPF_PROG(packet_sendmsg_spkt, struct socket *socket, struct msghdr *message, __u64 size,
	     int ret)
{
	return end_other(socket, 0, ret, true);
}

SEC("fexit/vsock_connectible_sendmsg")
int BPF_PROG(vsock_connectible_sendmsg, struct socket *socket, struct msghdr *message, __u64 size,
	     int ret)
{
	return end_other(socket, 0, ret, true);
}

SEC("fexit/vsock_dgram_sendmsg")
int BPF_PROG(vsock_dgram_sendmsg, struct socket *socket, struct msghdr *message, __u64 size,
	     int ret)
{
	return end_other(socket, 0, ret, true);
}

SEC("fexit/inet_recvmsg")
int BPF_PROG(inet_recvmsg, struct socket *socket, struct msghdr *message, __u64 size, int flags,
	     int ret)
{
	return end_receive(socket, message, flags, ret);
}

SEC("fexit/inet6_recvmsg")
int BPF_PROG(inet6_recvmsg, struct socket *socket, struct msghdr *message, __u64 size, int flags,
	     int ret)
{
	return end_receive(socket, message, flags, ret);
}

SEC("fexit/sock_common_recvmsg")
int BPF_PROG(sock_common_recvmsg, struct socket *socket, struct msghdr *message, __u64 size,
	     int flags, int ret)
{
	return end_receive(socket, message, flags, ret);
}

SEC("fexit/packet_recvmsg")
int BPF_PROG(packet_recvmsg, struct socket *socket, struct msghdr *message, __u64 size, int flags,
	     int ret)
{
	return end_other(socket, flags, ret, false);
}

SEC("fexit/vsock_connectible_recvmsg")
int BPF_PROG(vsock_connectible_recvmsg, struct socket *socket, struct msghdr *message, __u64 size,
	     int flags, int ret)
{
	return end_other(socket, flags, ret, false);
}

SEC("fexit/vsock_dgram_recvmsg")
int BPF_PROG(vsock_dgram_recvmsg, struct socket *socket, struct msghdr *message, __u64 size,
	     int flags, int ret)
{
	return end_other(socket, flags, ret, false);
}

/* A protocol without a sendpage of its own is sent the page by inet_sendmsg() (sock_no_sendpage() in net/core/sock.c),
 * which counts. */
static __always_inline struct sock *get_sock_of_pages(struct socket *socket)
{
	struct sock *sk = socket->sk;

	return sk && sk->__sk_common.skc_prot->sendpage ? sk : NULL;
}

SEC("fentry/inet_sendpage")
int BPF_PROG(begin_sendpage, struct socket *socket)
{
	struct sock *sk = get_sock_of_pages(socket);
	struct socket_state *state;
	struct peer_note *note;

	if (!sk || !is_active() || sk->sk_protocol == IPPROTO_TCP)
		return 0;
	state = bpf_sk_storage_get(&sockets, sk, NULL, BPF_LOCAL_STORAGE_GET_F_CREATE);
	if (!state)
		return 0;
	note = make_note();
	if (!note)
		return 0;
	state->by_pages = 1;
	note->by_pages = 1;
	return 0;
}

SEC("fexit/inet_sendpage")
int BPF_PROG(inet_sendpage, struct socket *socket, void *page, int offset, __u64 size, int flags,
	     long ret)
{
	struct sock *sk = get_sock_of_pages(socket);
	struct peer_note *note;

	if (!sk || !is_active())
		return 0;
	if (sk->sk_protocol != IPPROTO_TCP) {
		note = find_note();
		if (note)
			note->by_pages = 0;
	}
	return count_sent(sk, ret, NULL);
}

#endif
