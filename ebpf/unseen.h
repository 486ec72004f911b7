/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * Sockets whose bytes no hook can see, since programs and the kernel share their memory, or since the plan has none
 * for their family. They are looked for every few seconds; a hook in setsockopt() would tell at once, and would stand
 * in the way of every other call of it.
 */
#ifndef UNSEEN_H
#define UNSEEN_H

static __always_inline bool is_unseen(struct sock *sk)
{
	__u16 family = sk->__sk_common.skc_family;

	if (family == AF_XDP || (family == AF_VSOCK && unseen_vsock))
		return true;
	if (family != AF_PACKET || !bpf_core_type_exists(struct packet_sock))
		return false;
	/* A transmit ring is sent by calls, which say how much. */
	return BPF_CORE_READ((struct packet_sock *)sk, rx_ring.pg_vec);
}

static __always_inline void introduce_other(struct task_struct *task)
{
	struct process_node *node = know(task, BY_HELPER);

	if (!node || node->sent & SENT)
		return;
	know_ancestors(task, BY_HELPER);
	if (send_lineage(node, 0))
		node->sent |= SENT;
	else
		mark_late(node);
}

SEC("iter/task_file")
int find_unseen(struct bpf_iter__task_file *context)
{
	struct task_struct *task = context->task;
	struct file *file = context->file;
	struct unseen_record *record;
	struct socket_state *state;
	struct socket *socket;
	struct sock *sk;

	if (!task || !file)
		return 0;
	socket = bpf_sock_from_file(file);
	if (!socket)
		return 0;
	sk = socket->sk;
	if (!sk || !is_unseen(sk))
		return 0;
	state = bpf_sk_storage_get(&sockets, sk, NULL, BPF_LOCAL_STORAGE_GET_F_CREATE);
	if (!state || state->unseen)
		return 0;
	record = bpf_ringbuf_reserve(&records, sizeof(*record), 0);
	if (!record) {
		/* Late, unless it has ended by the next look. */
		add_counter(COUNTER_UNSEEN_RECORDS_LOST, 1);
		return 0;
	}
	state->unseen = 1;
	record->header.kind = RECORD_UNSEEN;
	record->header.flags = 0;
	record->header.pad = 0;
	record->header.time_ns = bpf_ktime_get_boot_ns();
	read_key(task, &record->owner);
	record->executable.inode = 0;
	record->executable.device = 0;
	record->executable.generation = 0;
	read_executable(task, &record->executable);
	record->family = sk->__sk_common.skc_family;
	record->netns = sk->__sk_common.skc_net.net->ns.inum;
	bpf_ringbuf_submit(record, BPF_RB_NO_WAKEUP);
	introduce_other(task);
	return 0;
}

#endif
