// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
/*
 * Counts, for each socket and each process that uses it, the payload bytes that socket calls move.
 *
 * Sends and most receives come from the tracepoints in sock_sendmsg() and sock_recvmsg() (6.3; sendfile through
 * them from 6.5), which fire for every family in the caller's context, io_uring's workers included; before that from
 * the ends of the functions that these call (functions.h). TCP receives come from the advance of copied_seq, since
 * splice() and TCP_ZEROCOPY_RECEIVE never pass sock_recvmsg(). The loader loads what belongs to its plan.
 */
#include "kernel_types.h"
#include "picosnitch.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_tracing.h>

/* The kernel's word for it: tracing helpers are for GPL-compatible programs. */
char LICENSE[] SEC("license") = "GPL";

#include "wakeup.h"
#include "maps.h"
#include "reports.h"
#include "drift.h"
#include "lineage.h"
#include "provisional.h"
#include "accounting.h"
#include "drain.h"
#include "dns.h"
#include "hooks.h"
#include "traffic.h"
#include "functions.h"
#include "unseen.h"
#include "cgroups.h"
#include "lookups.h"

/* Never used and never loaded (libbpf passes over sections it doesn't know): it puts the enums, and what no map
 * holds, into the object's BTF, by which tests/contract compares picosnitch.h with wire.py. */
struct layouts {
	enum record_kind record_kind;
	enum flow_flags flow_flags;
	enum flow_direction flow_direction;
	enum process_flags process_flags;
	enum counter counter;
	struct dns_record dns_record;
	struct unseen_record unseen_record;
	struct lookup_record lookup_record;
	enum cgroup1_controller cgroup1_controller;
};
struct layouts *layouts SEC(".layouts");

SEC("tp_btf/sock_send_length")
int BPF_PROG(sock_send_length, struct sock *sk, int ret, int flags)
{
	if (!is_active() || !is_network(sk->__sk_common.skc_family))
		return 0;
	return count_sent(sk, ret, NULL);
}

SEC("tp_btf/sock_recv_length")
int BPF_PROG(sock_recv_length, struct sock *sk, int ret, int flags)
{
	if (!is_active() || !is_network(sk->__sk_common.skc_family))
		return 0;
	return count_received(sk, ret, flags, NULL);
}

/* Called whenever data has left a TCP receive queue, with the socket locked. */
SEC("tp_btf/tcp_rcv_space_adjust")
int BPF_PROG(tcp_rcv_space_adjust, struct sock *sk)
{
	struct task_struct *task = bpf_get_current_task_btf();
	struct socket_state *state;
	struct tcp_sock *tcp;
	__u32 advance;

	if (!is_active() || sk->sk_protocol != IPPROTO_TCP)
		return 0;
	tcp = bpf_skc_to_tcp_sock(sk);
	if (!tcp || tcp->inet_conn.icsk_ulp_ops)
		return 0;
	state = bpf_sk_storage_get(&sockets, sk, NULL, 0);
	if (!state || !state->owner_tgid) {
		state = claim(sk);
		if (!state || !state->owner_tgid)
			return 0;
	}
	if (!state->has_copied_seq) {
		/* Read before it was established, from the data of the SYN on. */
		state->copied_seq = tcp->rcv_nxt - (__u32)tcp->bytes_received;
		state->has_copied_seq = 1;
	}
	advance = tcp->copied_seq - state->copied_seq;
	if (!advance)
		return 0;
	state->copied_seq = tcp->copied_seq;
	/* The peer's FIN has a sequence number of its own. splice() takes it before this call, recv() after. */
	if (sk->__sk_common.skc_flags & 1UL << SOCK_DONE && tcp->copied_seq == tcp->rcv_nxt &&
	    !--advance)
		return 0;
	/* Not owned by a task: a reader inside the kernel, in softirq, where current is whoever was interrupted. */
	if (sk->sk_lock.owned) {
		if (take_over(state, task))
			introduce();
		if (!is_owner(state, task))
			return count_elsewhere(sk, advance, false, 0, NULL);
	}
	count_socket(state, advance, false);
	return 0;
}

/* A child's storage is a copy of its listener's, and the listener's owner has it until somebody uses it. */
static __always_inline void begin_child(struct sock *sk, struct socket_state *state)
{
	read_kind(sk, state);
	state->is_child = 1;
	state->transmit_bytes = 0;
	state->receive_bytes = 0;
	state->transmit_calls = 0;
	state->receive_calls = 0;
	state->connections = 0;
	state->connect_failures = 0;
	state->connecting = 0;
	state->direction = DIRECTION_INBOUND;
	state->provisional = state->claimed ? 1 : 0;
	state->has_copied_seq = 0;
}

/* TCP is here twice for each child: when it is made, and when it is established. With Fast Open it may be used in
 * between. */
static __always_inline int accept_child(struct sock *sk, struct socket_state *state, bool is_new,
					bool is_established)
{
	if (!state) {
		/* Where the listener has no storage the first user claims the child, but what is read from the start of
		 * the connection on counts. */
		if (!is_established)
			return 0;
		state = bpf_sk_storage_get(&sockets, sk, NULL, BPF_LOCAL_STORAGE_GET_F_CREATE);
		if (!state)
			return 0;
	}
	if (is_new || !state->is_child)
		begin_child(sk, state);
	/* Another one once it is established: inet_csk_clone_lock() sets it after the state. */
	state->cookie = bpf_get_socket_cookie(sk);
	if (!is_established)
		return 0;
	start_copied_seq(sk, state);
	read_tuple(sk, state);
	__sync_fetch_and_add(&state->connections, 1);
	raise(&control.sockets_dirty);
	return 0;
}

/* SCTP's sockets of one association: no state in between, and the accepted one is not a clone of the listener. What
 * connect() has made is established in softirq: its first user owns it. */
static __always_inline int open_association(struct sock *sk)
{
	struct socket_state *state;

	/* Not yet that of a file: accept() makes it at this moment. */
	if (!sk->sk_socket) {
		state = claim(sk);
		if (!state)
			return 0;
		state->direction = DIRECTION_INBOUND;
	} else {
		state = bpf_sk_storage_get(&sockets, sk, NULL, BPF_LOCAL_STORAGE_GET_F_CREATE);
		if (!state) {
			add_counter(COUNTER_STORAGE_FAILED, 1);
			return 0;
		}
		state->direction = DIRECTION_OUTBOUND;
	}
	__sync_fetch_and_add(&state->connections, 1);
	raise(&control.sockets_dirty);
	return 0;
}

/* An own connect() has succeeded. */
static __always_inline int finish_connect(struct sock *sk, struct socket_state *state)
{
	struct tcp_sock *tcp = bpf_skc_to_tcp_sock(sk);

	if (tcp)
		state->copied_seq = tcp->copied_seq;
	read_tuple(sk, state);
	__sync_fetch_and_add(&state->connections, 1);
	raise(&control.sockets_dirty);
	return 0;
}

/* Two sockets that connect to each other at the same moment, or one to itself, come by SYN_RECV as a listener's child
 * does. */
static __always_inline bool has_connected(const struct socket_state *state)
{
	return state && !state->is_child && state->direction == DIRECTION_OUTBOUND;
}

/* Only the change from CLOSE happens in the owner's context; all others may come from a softirq. */
SEC("tp_btf/inet_sock_set_state")
int BPF_PROG(inet_sock_set_state, struct sock *sk, int old_state, int new_state)
{
	struct socket_state *state;

	/* Half of the changes are those of a connection's end, of which none matters here. */
	if (new_state != TCP_ESTABLISHED && new_state != TCP_SYN_RECV && old_state != TCP_CLOSE &&
	    old_state != TCP_SYN_SENT)
		return 0;
	if (!is_active() || is_subflow(sk))
		return 0;
	/* MPTCP clones its listener, and the clone is established at once. */
	if ((new_state == TCP_ESTABLISHED && old_state == TCP_SYN_RECV) ||
	    (old_state == TCP_LISTEN &&
	     (new_state == TCP_SYN_RECV || new_state == TCP_ESTABLISHED))) {
		state = bpf_sk_storage_get(&sockets, sk, NULL, 0);
		if (old_state == TCP_SYN_RECV && has_connected(state))
			return finish_connect(sk, state);
		return accept_child(sk, state, old_state == TCP_LISTEN,
				    new_state == TCP_ESTABLISHED);
	}
	if (new_state == TCP_ESTABLISHED && sk->sk_protocol == IPPROTO_SCTP)
		return open_association(sk);
	if (old_state == TCP_CLOSE && (new_state == TCP_SYN_SENT || new_state == TCP_LISTEN)) {
		state = claim(sk);
		if (!state)
			return 0;
		state->connecting = 0;
		state->direction = new_state == TCP_LISTEN ? DIRECTION_UNKNOWN : DIRECTION_OUTBOUND;
		read_tuple(sk, state);
		return 0;
	}
	if (old_state != TCP_SYN_SENT)
		return 0;
	state = bpf_sk_storage_get(&sockets, sk, NULL, 0);
	if (!state)
		return 0;
	if (new_state == TCP_ESTABLISHED)
		return finish_connect(sk, state);
	if (new_state == TCP_CLOSE && sk->sk_err) {
		/* Refused, reset, timed out, unreachable; no error where the program itself gave up. */
		__sync_fetch_and_add(&state->connect_failures, 1);
		raise(&control.sockets_dirty);
	}
	return 0;
}

/* Reads the command line before the program can change it, and tells user space of executables that fanotify
 * has no mark for. */
SEC("tp_btf/sched_process_exec")
int BPF_PROG(sched_process_exec, struct task_struct *task, int old_pid, void *binprm)
{
	struct process_node *node;
	__u32 device, flags = 0;

	if (is_abandoned())
		return 0;
	node = slot_of(task->tgid);
	if (!node)
		return 0;
	/* The parent lives now and may have ended by the time this process opens a socket. */
	know_ancestors(task, DIRECTLY);
	read_node(task, node, DIRECTLY);
	node->exec_ns = bpf_ktime_get_boot_ns();
	node->changed_ns = read_changed_ns(task);
	read_cmdline(task, node, 0, DIRECTLY);
	publish(node, task->tgid);
	device = node->executable.device;
	if (!bpf_map_lookup_elem(&watched_devices, &device))
		flags |= PROCESS_UNWATCHED;
	if (control.every_exe)
		flags |= PROCESS_EXEC;
	if (flags && send_lineage(node, flags))
		node->sent |= SENT;
	return 0;
}
