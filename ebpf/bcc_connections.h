/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * Sockets that connect, are accepted and end.
 */
#ifndef BCC_CONNECTIONS_H
#define BCC_CONNECTIONS_H

/* Generates the kernel's cookie of each new socket, which programs at kprobes can read and not generate. */
int make_cookie(struct bpf_sock *sk)
{
	generate_cookie(sk);
	return 1;
}

static __always_inline void begin_connecting(struct sock *sk)
{
	struct socket_state *state = claim(sk);

	if (!state)
		return;
	/* An attempt before this one, with perhaps another peer. */
	if (has_counts(state))
		push(state, 0);
	state->direction = DIRECTION_OUTBOUND;
	read_tuple(sk, state);
	if (is_unknown_owner(state))
		introduce();
}

/* Raw tracepoint inet_sock_set_state. Only the change from CLOSE happens in the owner's context; all others may come
 * from a softirq. */
int count_state(struct bpf_raw_tracepoint_args *ctx)
{
	struct sock *sk = (struct sock *)ctx->args[0];
	int old_state = ctx->args[1], new_state = ctx->args[2];
	struct socket_state *state;

	if (old_state != TCP_CLOSE && old_state != TCP_SYN_SENT &&
	    (old_state != TCP_SYN_RECV || new_state != TCP_ESTABLISHED))
		return 0;
	if (!is_active() || is_subflow(sk))
		return 0;
	if (old_state == TCP_CLOSE) {
		if (new_state == TCP_SYN_SENT)
			begin_connecting(sk);
		return 0;
	}
	state = find_socket(sk);
	if (!state)
		return 0;
	/* A child of a listener; but two sockets that connect to each other at the same moment, or one to itself, come
	 * by SYN_RECV as well. */
	if (old_state == TCP_SYN_RECV && state->direction != DIRECTION_OUTBOUND)
		return 0;
	if (new_state == TCP_ESTABLISHED) {
		if (state->protocol == IPPROTO_TCP)
			state->copied_seq = read_copied_seq(sk);
		read_tuple(sk, state);
		__sync_fetch_and_add(&state->connections, 1);
	} else if (new_state == TCP_CLOSE && FETCH(sk->sk_err)) {
		/* Refused, reset, timed out, unreachable; no error where the program itself gave up. */
		__sync_fetch_and_add(&state->connect_failures, 1);
	} else {
		return 0;
	}
	queue_socket(sk, state);
	return 0;
}

/* Kprobes tcp_v4_connect, tcp_v6_connect: a connect() that finds no route never gets as far as SYN_SENT, and fails here. */
int enter_connect(struct pt_regs *ctx)
{
	struct call call = {};
	u64 thread = bpf_get_current_pid_tgid();

	if (!is_active())
		return 0;
	call.sk = (struct sock *)PT_REGS_PARM1(ctx);
	if (is_subflow(call.sk))
		return 0;
	call.has_peer = read_sockaddr((struct sockaddr *)PT_REGS_PARM2(ctx), &call);
	connects.update(&thread, &call);
	return 0;
}

int leave_connect(struct pt_regs *ctx)
{
	u64 thread = bpf_get_current_pid_tgid();
	struct call *call = connects.lookup(&thread);
	struct socket_state *state;

	if (!call)
		return 0;
	if ((int)PT_REGS_RC(ctx) >= 0 || !call->has_peer)
		goto out;
	state = claim(call->sk);
	if (!state)
		goto out;
	if (has_counts(state))
		push(state, 0);
	state->direction = DIRECTION_OUTBOUND;
	__builtin_memcpy(state->remote_address, call->remote_address, 16);
	state->remote_port = call->remote_port;
	__sync_fetch_and_add(&state->connect_failures, 1);
	queue_socket(call->sk, state);
	if (is_unknown_owner(state))
		introduce();
out:
	connects.delete(&thread);
	return 0;
}

/* Kprobe inet_accept, which TCP, MPTCP and SCTP have in common. */
int enter_accept(struct pt_regs *ctx)
{
	u64 thread = bpf_get_current_pid_tgid();
	struct call call = {};

	if (!is_active())
		return 0;
	call.kind = CALL_ACCEPT;
	call.accepted = (struct socket *)PT_REGS_PARM2(ctx);
	if (calls.update(&thread, &call))
		add_missed_call();
	return 0;
}

/* Returns true where the calling process has to be introduced. */
static __always_inline bool count_accepted(struct socket *accepted)
{
	struct sock *sk = FETCH(accepted->sk);
	struct socket_state *state;

	if (!sk || is_subflow(sk))
		return false;
	state = claim(sk);
	if (!state)
		return false;
	/* Nobody has read yet, so copied_seq is where the connection has begun. */
	state->direction = DIRECTION_INBOUND;
	state->provisional = 1;
	__sync_fetch_and_add(&state->connections, 1);
	queue_socket(sk, state);
	return is_unknown_owner(state);
}

/* Kprobe inet_release, which all sockets of IPv4 and IPv6 have in common: nobody can use it any more. */
int release(struct pt_regs *ctx)
{
	struct socket *socket = (struct socket *)PT_REGS_PARM1(ctx);
	struct sock *sk = FETCH(socket->sk);
	struct socket_state *state;
	u64 key = (u64)sk;

	if (!sk)
		return 0;
	state = find_socket(sk);
	if (!state)
		return 0;
	if (is_active() && has_counts(state)) {
		/* Accepted and closed without a byte: whoever closes it is who had it. */
		take_over(state, get_task());
		if (is_unknown_owner(state))
			introduce();
		if (state->protocol == IPPROTO_MPTCP && !state->remote_port)
			read_tuple(sk, state);
		push(state, FLOW_FINAL);
	}
	if (!sockets.delete(&key))
		add_socket_count(-1);
	return 0;
}

#endif
