/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * Calls that move bytes. What the kernel has moved is known at the return, on which socket at the entry; the thread
 * joins the two. TCP and UDP are received without a probe at a return: those are limited in number, and thousands of
 * threads may wait in recv().
 */
#ifndef BCC_CALLS_H
#define BCC_CALLS_H

static __always_inline void note_call(struct call *call)
{
	u64 thread = bpf_get_current_pid_tgid();

	if (calls.update(&thread, call))
		add_missed_call();
}

/* Kprobes inet_sendmsg, inet6_sendmsg, packet_sendmsg, packet_sendmsg_spkt (socket, message, ...). */
int enter_send(struct pt_regs *ctx)
{
	struct socket *socket = (struct socket *)PT_REGS_PARM1(ctx);
	struct msghdr *message = (struct msghdr *)PT_REGS_PARM2(ctx);
	struct call call = {};
	u16 protocol;

	if (!is_active())
		return 0;
	call.kind = CALL_SEND;
	call.sk = FETCH(socket->sk);
	protocol = read_protocol(call.sk);
	if (is_datagram(protocol) && is_inet(read_family(call.sk))) {
		call.has_peer = read_sockaddr(FETCH(message->msg_name), &call);
		/* A raw socket of IPv6 may have a protocol there. */
		if (!is_udp(protocol))
			call.remote_port = 0;
	}
	note_call(&call);
	return 0;
}

/* Kprobe inet_sendpage (until 6.4): sendfile() and splice(). Protocols without a way of their own for that go on to
 * inet_sendmsg, which takes the place of this call, so that its return counts and that of this one finds nothing. */
int enter_sendpage(struct pt_regs *ctx)
{
	struct socket *socket = (struct socket *)PT_REGS_PARM1(ctx);
	struct call call = {};

	if (!is_active())
		return 0;
	call.kind = CALL_SEND;
	call.sk = FETCH(socket->sk);
	note_call(&call);
	return 0;
}

/* Received by other means: TCP by count_tcp, UDP by count_datagram. */
static __always_inline bool is_received_elsewhere(struct sock *sk)
{
	u16 protocol = read_protocol(sk);

	return is_udp(protocol) || (protocol == IPPROTO_TCP && !get_ulp(sk));
}

/* Kprobes inet_recvmsg, inet6_recvmsg, sock_common_recvmsg, packet_recvmsg (socket, message, length, flags). */
int enter_receive(struct pt_regs *ctx)
{
	struct socket *socket = (struct socket *)PT_REGS_PARM1(ctx);
	int flags = PT_REGS_PARM4(ctx);
	struct call call = {};

	if (!is_active())
		return 0;
	call.kind = CALL_RECEIVE;
	call.sk = FETCH(socket->sk);
	if (read_family(call.sk) != AF_PACKET) {
		if (!is_inet(read_family(call.sk)))
			return 0;
		if (is_received_elsewhere(call.sk)) {
			/* One from before the start: where it stands before this call reads. */
			if (read_protocol(call.sk) == IPPROTO_TCP)
				claim(call.sk);
			return 0;
		}
	}
	if (flags & (MSG_PEEK | MSG_ERRQUEUE))
		return 0;
	note_call(&call);
	return 0;
}

/* Kprobe skb_free_datagram (socket, packet): raw and ping sockets are done with a packet that they hand out. */
int note_peer(struct pt_regs *ctx)
{
	struct sock *sk = (struct sock *)PT_REGS_PARM1(ctx);
	struct sk_buff *skb = (struct sk_buff *)PT_REGS_PARM2(ctx);
	u64 thread = bpf_get_current_pid_tgid();
	struct call *call = calls.lookup(&thread);

	if (!call || call->kind != CALL_RECEIVE || call->sk != sk || !is_inet(read_family(sk)))
		return 0;
	read_source(skb, call->remote_address);
	call->has_peer = 1;
	return 0;
}

/* Return probes of all of the above, and of inet_accept. */
int leave_call(struct pt_regs *ctx)
{
	u64 thread = bpf_get_current_pid_tgid();
	int result = PT_REGS_RC(ctx);
	struct call *noted = calls.lookup(&thread);
	struct call call;
	bool is_new;

	if (!noted)
		return 0;
	call = *noted;
	calls.delete(&thread);
	if (result < 0)
		return 0;
	/* Nothing is the end of the file. */
	if (!result && call.kind == CALL_RECEIVE && !is_datagram(read_protocol(call.sk)))
		return 0;
	if (call.kind == CALL_ACCEPT)
		is_new = count_accepted(call.accepted);
	else
		is_new = count(call.sk, &call, result, call.kind == CALL_SEND);
	if (is_new)
		introduce();
	return 0;
}

/* Kprobe skb_consume_udp (socket, packet, length): a datagram has been handed out. A negative length says that it was only
 * looked at. */
int count_datagram(struct pt_regs *ctx)
{
	struct sock *sk = (struct sock *)PT_REGS_PARM1(ctx);
	struct sk_buff *skb = (struct sk_buff *)PT_REGS_PARM2(ctx);
	int length = PT_REGS_PARM3(ctx);
	struct udphdr *header;
	struct call call = {};

	if (length < 0 || !is_active())
		return 0;
	header = (struct udphdr *)(FETCH(skb->head) + FETCH(skb->transport_header));
	read_source(skb, call.remote_address);
	call.remote_port = bpf_ntohs(FETCH(header->source));
	call.has_peer = 1;
	if (count(sk, &call, length, false))
		introduce();
	return 0;
}

/* Raw tracepoint tcp_rcv_space_adjust: called whenever data has left a TCP receive queue, with the socket locked. */
int count_tcp(struct bpf_raw_tracepoint_args *ctx)
{
	struct sock *sk = (struct sock *)ctx->args[0];
	struct socket_state *state;
	struct flow_key key = {};
	bool is_new = false;
	u32 copied_seq, advance;

	if (!is_active() || read_protocol(sk) != IPPROTO_TCP || get_ulp(sk))
		return 0;
	state = find_socket(sk);
	if (!state) {
		/* From here on it counts. */
		claim(sk);
		return 0;
	}
	copied_seq = read_copied_seq(sk);
	advance = copied_seq - state->copied_seq;
	if (!advance)
		return 0;
	state->copied_seq = copied_seq;
	/* The peer's FIN has a sequence number of its own. splice() takes it before this call, recv() after. */
	if (FETCH(sk->__sk_common.skc_flags) & 1UL << SOCK_DONE &&
	    copied_seq == FETCH(((struct tcp_sock *)sk)->rcv_nxt) && !--advance)
		return 0;
	/* Not owned by a task: a reader inside the kernel, in softirq, where current is whoever was interrupted. */
	if (FETCH(sk->sk_lock.owned)) {
		take_over(state, get_task());
		is_new = is_unknown_owner(state);
		if (!is_owner(state, get_task())) {
			fill_key(&key, sk);
			if (!count_flow(sk, &key, advance, 0, &is_new))
				count_lost(advance, false);
			goto out;
		}
	}
	count_socket(sk, state, advance, false);
out:
	if (is_new)
		introduce();
	return 0;
}

#endif
