/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * Who is running: executables, processes, their parents and grandparents.
 */
#ifndef LINEAGE_H
#define LINEAGE_H

static __always_inline void read_executable(struct task_struct *task,
					    struct file_identity *identity)
{
	struct mm_struct *mm = task->mm;
	struct file *file;
	struct inode *inode;

	if (!mm)
		return;
	file = mm->exe_file;
	if (!file)
		return;
	inode = file->f_inode;
	if (!inode)
		return;
	identity->inode = inode->i_ino;
	identity->device = inode->i_sb->s_dev;
	identity->generation = inode->i_generation;
}

static __always_inline void read_key(struct task_struct *task, struct process_key *key)
{
	struct task_struct *leader = task->group_leader;

	key->start_ns = leader->start_boottime;
	key->exec_id = task->self_exec_id;
	key->tgid = task->tgid;
	key->pad = 0;
}

static __always_inline bool is_same_image(const struct process_node *node, struct task_struct *task)
{
	return node->key.tgid == (__u32)task->tgid && node->key.exec_id == task->self_exec_id &&
	       node->key.start_ns == task->group_leader->start_boottime;
}

/* Everything that can be read of a live task but its command line. */
static __always_inline void read_node(struct task_struct *task, struct process_node *node)
{
	struct task_struct *parent = task->real_parent;

	read_key(task, &node->key);
	if (parent)
		read_key(parent, &node->parent);
	node->executable.inode = 0;
	node->executable.device = 0;
	node->executable.generation = 0;
	read_executable(task, &node->executable);
	node->exec_ns = 0;
	node->cgroup_id = task->cgroups->dfl_cgrp->kn->id;
	node->uid = task->cred->uid.val;
	node->cmdline_bytes = 0;
	node->flags = PROCESS_CMDLINE_MISSING;
	if (task->flags & PF_KTHREAD)
		node->flags = PROCESS_KERNEL;
	bpf_probe_read_kernel(node->comm, sizeof(node->comm), task->group_leader->comm);
}

/* The arguments of the calling process, NUL separated as in /proc/PID/cmdline. */
static __always_inline void read_cmdline(struct task_struct *task, struct process_node *node,
					 __u16 flags)
{
	struct mm_struct *mm = task->mm;
	unsigned long start, length;

	if (!mm)
		return;
	start = mm->arg_start;
	length = mm->arg_end - start;
	if (length > CMDLINE_BYTES) {
		length = CMDLINE_BYTES;
		flags |= PROCESS_CMDLINE_CUT;
	}
	if (bpf_probe_read_user(node->cmdline, length & (2 * CMDLINE_BYTES - 1), (void *)start))
		return;
	node->cmdline_bytes = length;
	node->flags = flags;
}

/* Parent and grandparent. What the parent's own storage knows wins over what can be read of the live tasks,
 * since it has command lines. `inherited` is set where the task is a fork of its parent's image. */
static __always_inline bool read_ancestors(struct task_struct *task, struct process_state *state)
{
	struct task_struct *parent = task->real_parent;
	struct process_state *known;

	if (!parent)
		return false;
	parent = parent->group_leader;
	if (!parent)
		return false;
	known = bpf_task_storage_get(&processes, parent, NULL, 0);
	if (known && is_same_image(&known->lineage[0], parent)) {
		__builtin_memcpy(&state->lineage[1], &known->lineage[0],
				 sizeof(struct process_node));
		__builtin_memcpy(&state->lineage[2], &known->lineage[1],
				 sizeof(struct process_node));
		return known->lineage[0].key.exec_id == task->self_exec_id;
	}
	read_node(parent, &state->lineage[1]);
	parent = parent->real_parent;
	if (parent)
		read_node(parent, &state->lineage[2]);
	return false;
}

static __noinline int send_lineage(struct process_state *state, __u16 flags)
{
	struct process_record *record;
	__u32 zero = 0;

	if (!state)
		return 1;
	record = bpf_map_lookup_elem(&scratch, &zero);
	if (!record)
		return 1;
	for (int generation = 0; generation < LINEAGE; generation++) {
		struct process_node *node = &state->lineage[generation];
		__u64 length = node->cmdline_bytes;

		if (!node->key.tgid)
			break;
		if (length > CMDLINE_BYTES)
			length = CMDLINE_BYTES;
		record->header.kind = RECORD_PROCESS;
		record->header.flags = node->flags | flags;
		record->header.pad = 0;
		record->header.time_ns = bpf_ktime_get_boot_ns();
		record->key = node->key;
		record->parent = node->parent;
		record->executable = node->executable;
		record->exec_ns = node->exec_ns;
		record->cgroup_id = node->cgroup_id;
		record->uid = node->uid;
		record->cmdline_bytes = length;
		record->generation = generation;
		record->pad = 0;
		__builtin_memcpy(record->comm, node->comm, COMM_BYTES);
		__builtin_memcpy(record->cmdline, node->cmdline, CMDLINE_BYTES);
		if (bpf_ringbuf_output(
			    &records, record, offsetof(struct process_record, cmdline) + length,
			    flags & PROCESS_UNWATCHED ? BPF_RB_FORCE_WAKEUP : wakeup_flag())) {
			add_counter(COUNTER_PROCESS_RECORDS_DELAYED, 1);
			return 1;
		}
	}
	return 0;
}

/* The calling process's storage, made now if it has none: it was started before the programs were attached, or
 * is a fork without an exec of its own. */
static __always_inline struct process_state *get_process(struct task_struct *task)
{
	struct task_struct *leader = task->group_leader;
	struct process_state *state;

	if (!leader)
		return NULL;
	state = bpf_task_storage_get(&processes, leader, NULL, BPF_LOCAL_STORAGE_GET_F_CREATE);
	if (!state) {
		add_counter(COUNTER_PROCESS_STORAGE_FAILED, 1);
		return NULL;
	}
	if (is_same_image(&state->lineage[0], task))
		return state;
	state->sent = 0;
	read_node(leader, &state->lineage[0]);
	if (read_ancestors(leader, state)) {
		struct process_node *self = &state->lineage[0], *parent = &state->lineage[1];

		self->exec_ns = parent->exec_ns;
		self->cmdline_bytes = parent->cmdline_bytes;
		self->flags = parent->flags;
		__builtin_memcpy(self->cmdline, parent->cmdline, CMDLINE_BYTES);
	} else {
		read_cmdline(task, &state->lineage[0], PROCESS_CMDLINE_LATE);
	}
	return state;
}

/* Tells user space who the caller is, once per image. */
static __noinline int introduce(struct task_struct *task)
{
	struct process_state *state;

	task = bpf_get_current_task_btf();
	state = get_process(task);
	if (!state || state->sent)
		return 0;
	if (!send_lineage(state, 0))
		state->sent = 1;
	return 0;
}

#endif
