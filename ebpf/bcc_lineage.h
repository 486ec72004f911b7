/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * Who is running, as in lineage.h.
 */
#ifndef BCC_LINEAGE_H
#define BCC_LINEAGE_H

static __always_inline void read_key(struct task_struct *task, struct process_key *key)
{
	struct task_struct *leader = FETCH(task->group_leader);

	key->start_ns = FETCH(leader->start_boottime);
	key->exec_id = FETCH(task->self_exec_id);
	key->tgid = FETCH(task->tgid);
	key->pad = 0;
}

static __always_inline bool is_kernel_thread(struct task_struct *task)
{
	return FETCH(task->flags) & PF_KTHREAD;
}

static __always_inline u32 read_uid(struct task_struct *task)
{
	const struct cred *cred = FETCH(task->cred);

	return FETCH(cred->uid.val);
}

static __always_inline struct process_node *slot_of(u32 tgid)
{
	u32 index = tgid & (PROCESS_SLOTS - 1);

	return processes.lookup(&index);
}

static __always_inline bool is_image(const struct process_node *node, const struct process_key *key)
{
	return node->key.tgid == key->tgid && node->key.exec_id == key->exec_id &&
	       node->key.start_ns == key->start_ns;
}

static __always_inline struct inode *get_exe_inode(struct mm_struct *mm)
{
	struct file *file = FETCH(mm->exe_file);

	return file ? FETCH(file->f_inode) : NULL;
}

/* The sockets of a process that ends are closed after its memory is gone. */
static __always_inline void recall_executable(struct task_struct *task,
					      struct file_identity *identity)
{
	struct process_node *node;
	struct process_key key;

	read_key(task, &key);
	node = slot_of(key.tgid);
	if (node && is_image(node, &key))
		*identity = node->executable;
}

static __always_inline void read_executable(struct task_struct *task,
					    struct file_identity *identity)
{
	struct mm_struct *mm = FETCH(task->mm);
	struct super_block *super;
	struct inode *inode;

	identity->inode = 0;
	identity->device = 0;
	identity->generation = 0;
	if (!mm) {
		recall_executable(task, identity);
		return;
	}
	inode = get_exe_inode(mm);
	if (!inode)
		return;
	super = FETCH(inode->i_sb);
	identity->inode = FETCH(inode->i_ino);
	identity->device = FETCH(super->s_dev);
	identity->generation = FETCH(inode->i_generation);
}

/* The change time of what the calling process executes: moves with every write to the file. */
static __always_inline u64 read_changed_ns(struct task_struct *task)
{
	struct mm_struct *mm = FETCH(task->mm);
	struct inode *inode;

	if (!mm)
		return 0;
	inode = get_exe_inode(mm);
	return inode ? read_ctime_ns(inode) : 0;
}

static __always_inline u64 read_cgroup_id(struct task_struct *task)
{
	struct css_set *set = FETCH(task->cgroups);
	struct cgroup *cgroup = FETCH(set->dfl_cgrp);
	struct kernfs_node *node = FETCH(cgroup->kn);

	return FETCH(node->id);
}

/* Of the v1 hierarchy that the loader has chosen: CGROUP1_CONTROLLER is a name of enum cgroup_subsys_id. */
static __always_inline u64 read_cgroup1_id(struct task_struct *task)
{
#ifdef CGROUP1_CONTROLLER
	struct css_set *set = FETCH(task->cgroups);
	struct cgroup_subsys_state *state = FETCH(set->subsys[CGROUP1_CONTROLLER]);
	struct cgroup *cgroup = FETCH(state->cgroup);
	struct kernfs_node *node = FETCH(cgroup->kn);

	return FETCH(node->id);
#else
	return 0;
#endif
}

/* The arguments of the calling process, NUL separated as in /proc/PID/cmdline. */
static __always_inline void read_cmdline(struct task_struct *task, struct process_node *node,
					 u16 flags)
{
	struct mm_struct *mm = FETCH(task->mm);
	unsigned long start, length;

	if (!mm)
		return;
	start = FETCH(mm->arg_start);
	length = FETCH(mm->arg_end) - start;
	if (length > CMDLINE_BYTES) {
		length = CMDLINE_BYTES;
		flags |= PROCESS_CMDLINE_CUT;
	}
	if (bpf_probe_read_user(node->cmdline, length & (2 * CMDLINE_BYTES - 1), (void *)start))
		return;
	node->cmdline_bytes = length;
	node->flags = flags;
}

/* A fork that has executed nothing since runs what its parent runs, with the same arguments. */
static __always_inline void inherit_cmdline(struct process_node *node)
{
	struct process_node *parent = slot_of(node->parent.tgid);

	if (!parent || !is_image(parent, &node->parent) || parent->key.exec_id != node->key.exec_id)
		return;
	node->exec_ns = parent->exec_ns;
	node->changed_ns = parent->changed_ns;
	node->cmdline_bytes = parent->cmdline_bytes;
	node->flags = parent->flags;
	bpf_probe_read_kernel(node->cmdline, CMDLINE_BYTES, parent->cmdline);
}

/* Everything that can be read of a live task but its command line. The node's key comes last, in publish(). */
static __always_inline void read_node(struct task_struct *task, struct process_node *node)
{
	struct task_struct *parent = FETCH(task->real_parent);
	struct task_struct *leader = FETCH(task->group_leader);

	node->key.tgid = 0;
	asm volatile("" ::: "memory");
	node->key.start_ns = FETCH(leader->start_boottime);
	node->key.exec_id = FETCH(task->self_exec_id);
	node->key.pad = 0;
	if (parent)
		read_key(parent, &node->parent);
	read_executable(task, &node->executable);
	node->exec_ns = 0;
	node->changed_ns = 0;
	node->cgroup_id = read_cgroup_id(task);
	node->cgroup1_id = read_cgroup1_id(task);
	node->uid = read_uid(task);
	node->cmdline_bytes = 0;
	node->flags = is_kernel_thread(task) ? PROCESS_KERNEL : PROCESS_CMDLINE_MISSING;
	node->sent = 0;
	bpf_probe_read_kernel(node->comm, sizeof(node->comm), leader->comm);
}

static __always_inline void publish(struct process_node *node, u32 tgid)
{
	asm volatile("" ::: "memory");
	node->key.tgid = tgid;
}

/* Makes a live task's node known where it is not. Returns it, or NULL. */
static __always_inline struct process_node *know(struct task_struct *task)
{
	struct process_node *node;
	struct process_key key;

	read_key(task, &key);
	node = slot_of(key.tgid);
	if (!node)
		return NULL;
	if (is_image(node, &key))
		return node;
	read_node(task, node);
	inherit_cmdline(node);
	publish(node, key.tgid);
	return node;
}

/* A live task, its parent and grandparent, or those before it too. */
static __always_inline void know_lineage(struct task_struct *task, int generations)
{
	/* Each turn would be a copy of all of know(). */
#pragma clang loop unroll(disable)
	for (int generation = 0; generation < generations && task; generation++) {
		know(task);
		task = FETCH(task->real_parent);
	}
}

/* Sends the node of `key`, if it is known; its parent's key goes back through `key`. */
static __always_inline bool send_node(struct process_record *record, struct process_key *key,
				      u8 generation, u16 flags)
{
	struct process_node *node = slot_of(key->tgid);
	u64 length, wakeup;

	if (!node || !is_image(node, key)) {
		key->tgid = 0;
		return true;
	}
	length = fill_process(record, node, key, generation, flags);
	if (!is_image(node, key)) {
		/* Its place was taken meanwhile. */
		key->tgid = 0;
		return true;
	}
	*key = node->parent;
	length += offsetof(struct process_record, cmdline);
	wakeup = flags & PROCESS_UNWATCHED ? BPF_RB_FORCE_WAKEUP : wakeup_flag(length);
	if (!records.ringbuf_output(record, length, wakeup)) {
		node->sent |= generation ? SENT_AS_ANCESTOR : 0;
		return true;
	}
	add_counter(COUNTER_PROCESS_RECORDS_DELAYED, 1);
	return false;
}

/* A process, its parent and its grandparent. False where the ring was full. */
static __always_inline bool send_lineage(struct process_node *node, u32 flags)
{
	struct process_record *record;
	struct process_key key;
	u32 zero = 0;

	record = scratch.lookup(&zero);
	if (!record)
		return true;
	key = node->key;
#pragma clang loop unroll(disable)
	for (int generation = 0; generation < LINEAGE && key.tgid; generation++)
		if (!send_node(record, &key, generation, generation ? 0 : flags))
			return false;
	return true;
}

/* The ring was full, and the process may have ended before it tries again: user space asks for these. */
static __always_inline void mark_late(struct process_node *node)
{
	for (int generation = 0; generation < LINEAGE; generation++) {
		struct process_key parent = node->parent;

		node->sent |= SENT_LATE;
		node = slot_of(parent.tgid);
		if (!node || !is_image(node, &parent))
			break;
	}
	raise_dirty(DIRTY_PROCESSES);
}

/* Tells user space who the caller is, once per image. Long, so that programs do it once, at their end. */
static __always_inline void introduce(void)
{
	struct task_struct *task = get_task();
	struct process_node *node;
	struct process_key key;

	read_key(task, &key);
	node = slot_of(key.tgid);
	if (!node)
		return;
	if (is_image(node, &key) && node->sent & SENT && node->cmdline_bytes)
		return;
	know_lineage(task, LINEAGE);
	if (!node->cmdline_bytes)
		read_cmdline(task, node, PROCESS_CMDLINE_LATE);
	if (node->sent & SENT)
		return;
	if (send_lineage(node, 0))
		node->sent |= SENT;
	else
		mark_late(node);
}

#endif
