/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * Hooks at the root of the cgroup hierarchy, and one beside them: who is at the other end, and when a socket ends.
 * All of them only look, and let everything pass.
 */
#ifndef HOOKS_H
#define HOOKS_H

static __always_inline void read_named(struct bpf_sock_addr *context, bool is_ipv6, __u8 *address)
{
	if (is_ipv6)
		copy_words(address, context->user_ip6[0], context->user_ip6[1],
			   context->user_ip6[2], context->user_ip6[3]);
	else
		map_ipv4(address, context->user_ip4);
}

static __always_inline int note_peer(struct bpf_sock_addr *context, bool is_ipv6)
{
	struct bpf_sock *sk = context->sk;
	struct peer_note *note;

	/* A connected socket has one peer, and nobody would take the note: this thread's next call on another socket
	 * would find it. */
	if (!is_active() || !sk || sk->dst_port)
		return 1;
	note = make_note();
	if (!note)
		return 1;
	read_named(context, is_ipv6, note->address);
	note->port = bpf_ntohs(context->user_port);
	note->set = 1;
	return 1;
}

/* Loaded to see whether the kernel lets cgroup programs use task storage, and never attached. */
SEC("cgroup/sendmsg4")
int probe_notes(struct bpf_sock_addr *context)
{
	bpf_task_storage_get(&peers, bpf_get_current_task_btf(), NULL, 0);
	return 1;
}

SEC("cgroup/sendmsg4")
int sendmsg4(struct bpf_sock_addr *context)
{
	return note_peer(context, false);
}

SEC("cgroup/recvmsg4")
int recvmsg4(struct bpf_sock_addr *context)
{
	return note_peer(context, false);
}

SEC("cgroup/sendmsg6")
int sendmsg6(struct bpf_sock_addr *context)
{
	return note_peer(context, true);
}

SEC("cgroup/recvmsg6")
int recvmsg6(struct bpf_sock_addr *context)
{
	return note_peer(context, true);
}

/* A connect() that finds no route never gets as far as SYN_SENT. So each attempt is noted as such before it is made;
 * the change to SYN_SENT takes the note back, the next attempt or the socket's end makes a failure of it. */
static __always_inline int note_connect(struct bpf_sock_addr *context, bool is_ipv6)
{
	struct socket_state *state;
	struct task_struct *task;
	struct sock *sk;

	if (context->protocol != IPPROTO_TCP || is_abandoned())
		return 1;
	sk = (struct sock *)bpf_skc_to_tcp_sock(context->sk);
	if (!sk)
		return 1;
	state = bpf_sk_storage_get(&sockets, context->sk, NULL, BPF_LOCAL_STORAGE_GET_F_CREATE);
	if (!state) {
		add_counter(COUNTER_STORAGE_FAILED, 1);
		return 1;
	}
	task = bpf_get_current_task_btf();
	if (may_claim(state, task)) {
		begin(sk, state, bpf_get_socket_cookie(context), task);
		introduce();
	}
	if (!state->owner_tgid)
		return 1;
	if (state->connecting) {
		__sync_fetch_and_add(&state->connect_failures, 1);
		push(state, bpf_ktime_get_boot_ns() | 1ULL << 63, 0);
	}
	state->connecting = 1;
	state->direction = DIRECTION_OUTBOUND;
	read_named(context, is_ipv6, state->remote_address);
	state->remote_port = bpf_ntohs(context->user_port);
	return 1;
}

SEC("cgroup/connect4")
int connect4(struct bpf_sock_addr *context)
{
	return note_connect(context, false);
}

SEC("cgroup/connect6")
int connect6(struct bpf_sock_addr *context)
{
	return note_connect(context, true);
}

/* Raw and ping sockets have no sendmsg hook: their destination is in the packet, which passes here before their
 * send returns. */
SEC("cgroup_skb/egress")
int note_destination(struct __sk_buff *skb)
{
	const __u8 *packet = (const __u8 *)(long)skb->data;
	const __u8 *end = (const __u8 *)(long)skb->data_end;
	struct socket_state *state;
	struct bpf_sock *sk;

	sk = skb->sk;
	if (!sk)
		return 1;
	sk = bpf_sk_fullsock(sk);
	if (!sk || sk->protocol == IPPROTO_TCP || sk->protocol == IPPROTO_UDP)
		return 1;
	if (packet + IPV6_BYTES > end && packet + IPV4_MIN_BYTES > end)
		return 1;
	if (!is_active())
		return 1;
	state = bpf_sk_storage_get(&sockets, sk, NULL, BPF_LOCAL_STORAGE_GET_F_CREATE);
	if (!state)
		return 1;
	if (packet[0] >> 4 == 4)
		map_ipv4(state->noted_address, *(const __be32 *)(packet + 16));
	else if (packet + IPV6_BYTES <= end)
		__builtin_memcpy(state->noted_address, packet + 24, 16);
	return 1;
}

static __always_inline bool is_raw(struct sock *sk)
{
	__u16 type = sk->sk_type, protocol = sk->sk_protocol;

	if (type == SOCK_RAW)
		return is_inet(sk->__sk_common.skc_family);
	return type == SOCK_DGRAM && (protocol == IPPROTO_ICMP || protocol == IPPROTO_ICMPV6);
}

/* They have no recvmsg hook either, but their packets are copied to the reader from here, with their headers at hand.
 * TCP's pass as well, most datagrams don't. */
SEC("tp_btf/skb_copy_datagram_iovec")
int BPF_PROG(skb_copy_datagram_iovec, const struct sk_buff *skb, int length)
{
	struct sock *sk = skb->sk;
	struct peer_note *note;
	const __u8 *header;

	if (!sk || !is_raw(sk) || !is_active())
		return 0;
	note = make_note();
	if (!note)
		return 0;
	header = skb->head + skb->network_header;
	if (sk->__sk_common.skc_family == AF_INET6) {
		bpf_probe_read_kernel(note->address, 16, header + 8);
	} else {
		__be32 source = 0;

		bpf_probe_read_kernel(&source, sizeof(source), header + 12);
		map_ipv4(note->address, source);
	}
	note->port = 0;
	note->set = 1;
	return 0;
}

static __always_inline void read_remote_of_released(struct bpf_sock *sk, struct socket_state *state)
{
	if (sk->family == AF_INET6)
		copy_words(state->remote_address, sk->dst_ip6[0], sk->dst_ip6[1], sk->dst_ip6[2],
			   sk->dst_ip6[3]);
	else
		map_ipv4(state->remote_address, sk->dst_ip4);
	state->remote_port = bpf_ntohs(sk->dst_port);
}

SEC("cgroup/sock_release")
int sock_release(struct bpf_sock *sk)
{
	struct task_struct *task = bpf_get_current_task_btf();
	struct socket_state *state;

	if (!is_active())
		return 1;
	state = bpf_sk_storage_get(&sockets, sk, NULL, 0);
	if (!state)
		return 1;
	if (state->connecting)
		__sync_fetch_and_add(&state->connect_failures, 1);
	if (!has_counts(state))
		return 1;
	/* Accepted and closed without a byte: whoever closes it is who had it. */
	if (take_over(state, task)) {
		introduce();
	} else if (may_claim(state, task)) {
		write_owner(state, task);
		introduce();
	}
	if (state->protocol == IPPROTO_MPTCP && !state->remote_port)
		read_remote_of_released(sk, state);
	if (state->owner_tgid)
		push(state, state->cookie, FLOW_FINAL);
	return 1;
}

#endif
