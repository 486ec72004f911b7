// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
/*
 * Counts, for each socket and each process that uses it, the payload bytes that socket calls move.
 *
 * Sends and most receives come from the tracepoints in sock_sendmsg() and sock_recvmsg() (6.3; sendfile through
 * them from 6.5), which fire for every family in the caller's context, io_uring's workers included. TCP receives
 * come from the advance of copied_seq, since splice() and TCP_ZEROCOPY_RECEIVE never pass sock_recvmsg().
 */
#include "kernel_types.h"
#include "picosnitch.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_tracing.h>

/* The kernel's word for it: tracing helpers are for GPL-compatible programs. */
char LICENSE[] SEC("license") = "GPL";

#include "maps.h"
#include "lineage.h"
#include "accounting.h"
#include "drain.h"
#include "dns.h"
#include "hooks.h"
#include "unseen.h"
#include "cgroups.h"

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
	enum cgroup1_controller cgroup1_controller;
};
struct layouts *layouts SEC(".layouts");

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
	struct peer_note *note = bpf_task_storage_get(&peers, bpf_get_current_task_btf(), NULL, 0);

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

/* An unconnected datagram socket: a flow for each peer. Returns true where that counted the call. */
static __noinline bool count_peer(struct sock *sk, struct socket_state *state, long bytes,
				  __u32 transmit)
{
	struct flow_key key = {};

	if (!sk || !state)
		return false;
	if (take_peer(&key)) {
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

static __always_inline int count(struct sock *sk, int bytes, bool transmit)
{
	struct task_struct *task = bpf_get_current_task_btf();
	__u16 family = sk->__sk_common.skc_family;
	struct socket_state *state;

	if (!is_inet(family))
		return count_elsewhere(sk, bytes, transmit, 1);
	state = bpf_sk_storage_get(&sockets, sk, NULL, 0);
	if (!state || !state->owner.tgid) {
		state = claim(sk);
		if (!state) {
			/* With storage, somebody else is claiming it right now, who counts the connection. */
			state = bpf_sk_storage_get(&sockets, sk, NULL, 0);
			return count_elsewhere(sk, bytes, transmit, !state);
		}
	}
	if (state->provisional && __sync_lock_test_and_set(&state->provisional, 0)) {
		write_owner(state, task);
		introduce();
	}
	if (is_datagram(state->protocol)) {
		if (is_unconnected(sk) && count_peer(sk, state, bytes, transmit))
			return 0;
		if (has_peer_changed(sk, state))
			change_peer(sk, state);
	} else if (!state->remote_port) {
		/* An MPTCP socket gets its addresses after it was established. */
		read_tuple(sk, state);
	}
	if (!is_owner(state, task))
		return count_elsewhere(sk, bytes, transmit, 0);
	if (state->direction == DIRECTION_UNKNOWN && is_datagram(state->protocol) &&
	    !(__sync_fetch_and_or(&state->flags, SOCKET_OPENED) & SOCKET_OPENED)) {
		state->direction = transmit ? DIRECTION_OUTBOUND : DIRECTION_INBOUND;
		__sync_fetch_and_add(&state->connections, 1);
	}
	count_socket(state, bytes, transmit);
	return 0;
}

SEC("tp_btf/sock_send_length")
int BPF_PROG(sock_send_length, struct sock *sk, int ret, int flags)
{
	struct flow_key discarded;

	if (!is_active() || !is_network(sk->__sk_common.skc_family))
		return 0;
	if (ret >= 0)
		return count(sk, ret, true);
	if (sk->sk_protocol != IPPROTO_TCP)
		take_peer(&discarded);
	return 0;
}

SEC("tp_btf/sock_recv_length")
int BPF_PROG(sock_recv_length, struct sock *sk, int ret, int flags)
{
	struct flow_key discarded;

	if (!is_active() || !is_network(sk->__sk_common.skc_family))
		return 0;
	if (ret < 0 || flags & (MSG_PEEK | MSG_ERRQUEUE)) {
		if (sk->sk_protocol != IPPROTO_TCP)
			take_peer(&discarded);
		return 0;
	}
	if (sk->sk_protocol == IPPROTO_TCP && is_inet(sk->__sk_common.skc_family)) {
		struct socket_state *state;

		/* End of file; everything else is counted by copied_seq, unless there is no storage to keep it in. */
		if (!ret)
			return 0;
		state = bpf_sk_storage_get(&sockets, sk, NULL, 0);
		if (state && !get_ulp(sk))
			return 0;
	}
	return count(sk, ret, false);
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
	if (!state || !state->owner.tgid) {
		state = claim(sk);
		if (!state)
			return 0;
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
		if (state->provisional && __sync_lock_test_and_set(&state->provisional, 0)) {
			write_owner(state, task);
			introduce();
		}
		if (!is_owner(state, task))
			return count_elsewhere(sk, advance, false, 0);
	}
	count_socket(state, advance, false);
	return 0;
}

static __always_inline int accept_child(struct sock *sk)
{
	struct socket_state *state = bpf_sk_storage_get(&sockets, sk, NULL, 0);
	struct tcp_sock *tcp;

	/* Cloned from the listener with the listener's owner. Where that has no storage the first user claims
	 * it, but what is read from the start of the connection on counts. */
	if (!state) {
		state = bpf_sk_storage_get(&sockets, sk, NULL, BPF_LOCAL_STORAGE_GET_F_CREATE);
		if (!state)
			return 0;
	}
	read_kind(sk, state);
	state->cookie = bpf_get_socket_cookie(sk);
	state->transmit_bytes = 0;
	state->receive_bytes = 0;
	state->transmit_calls = 0;
	state->receive_calls = 0;
	state->connect_failures = 0;
	state->connecting = 0;
	state->connections = 1;
	state->direction = DIRECTION_INBOUND;
	state->provisional = state->claimed;
	state->has_copied_seq = 1;
	tcp = bpf_skc_to_tcp_sock(sk);
	if (tcp)
		state->copied_seq = tcp->copied_seq;
	read_tuple(sk, state);
	raise(&control.sockets_dirty);
	return 0;
}

/* Only the change from CLOSE happens in the owner's context; all others may come from a softirq. */
SEC("tp_btf/inet_sock_set_state")
int BPF_PROG(inet_sock_set_state, struct sock *sk, int old_state, int new_state)
{
	struct socket_state *state;

	if (!is_active() || is_subflow(sk))
		return 0;
	/* MPTCP clones its listener, and the clone is established at once. */
	if (new_state == TCP_ESTABLISHED && (old_state == TCP_SYN_RECV || old_state == TCP_LISTEN))
		return accept_child(sk);
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
	if (new_state == TCP_ESTABLISHED) {
		struct tcp_sock *tcp = bpf_skc_to_tcp_sock(sk);

		if (tcp)
			state->copied_seq = tcp->copied_seq;
		read_tuple(sk, state);
		__sync_fetch_and_add(&state->connections, 1);
		raise(&control.sockets_dirty);
	} else if (new_state == TCP_CLOSE && sk->sk_err) {
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
	know_ancestors(task);
	read_node(task, node);
	node->exec_ns = bpf_ktime_get_boot_ns();
	node->changed_ns = read_changed_ns(task);
	read_cmdline(task, node, 0);
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
