/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * Who is running: executables, processes, their parents and grandparents.
 */
#ifndef LINEAGE_H
#define LINEAGE_H

/* How the kernel's structures are read. For each pointer that a program loads directly through one that the verifier
 * trusts, on each way that leads there, the verifier looks for up to four names among all of the kernel's types, from 6.3
 * on (57539b1c0ac2, btf_nested_type_is_trusted()). That is 1 ms or more each, and was most of what a start took. A
 * helper's call takes 50 ns, so that only what is read at each exec and of each socket is read directly. */
enum reading {
	DIRECTLY,
	BY_HELPER,
};

#define READ(how, from, field) ((how) == DIRECTLY ? (from)->field : BPF_CORE_READ(from, field))

static __always_inline void read_key_by(struct task_struct *task, struct process_key *key,
					enum reading how)
{
	struct task_struct *leader = READ(how, task, group_leader);

	key->start_ns = READ(how, leader, start_boottime);
	key->exec_id = (__u32)READ(how, task, self_exec_id);
	key->tgid = READ(how, task, tgid);
	key->pad = 0;
}

static __always_inline void read_key(struct task_struct *task, struct process_key *key)
{
	read_key_by(task, key, DIRECTLY);
}

static __always_inline struct process_node *slot_of(__u32 tgid)
{
	__u32 index = tgid & (PROCESS_SLOTS - 1);

	return bpf_map_lookup_elem(&processes, &index);
}

static __always_inline bool is_image(const struct process_node *node, const struct process_key *key)
{
	return node->key.tgid == key->tgid && node->key.exec_id == key->exec_id &&
	       node->key.start_ns == key->start_ns;
}

/* The sockets of a process that ends are closed after its memory is gone. */
static __always_inline void recall_executable(struct task_struct *task,
					      struct file_identity *identity)
{
	struct process_node *node = slot_of(READ(BY_HELPER, task, tgid));
	struct process_key key;

	read_key_by(task, &key, BY_HELPER);
	if (node && is_image(node, &key))
		*identity = node->executable;
}

static __always_inline void read_executable_by(struct task_struct *task,
					       struct file_identity *identity, enum reading how)
{
	struct mm_struct *mm = READ(how, task, mm);
	struct super_block *filesystem;
	struct inode *inode;
	struct file *file;

	if (!mm) {
		recall_executable(task, identity);
		return;
	}
	file = READ(how, mm, exe_file);
	if (!file)
		return;
	inode = READ(how, file, f_inode);
	if (!inode)
		return;
	filesystem = READ(how, inode, i_sb);
	identity->inode = READ(how, inode, i_ino);
	identity->device = READ(how, filesystem, s_dev);
	identity->generation = READ(how, inode, i_generation);
}

static __always_inline void read_executable(struct task_struct *task,
					    struct file_identity *identity)
{
	read_executable_by(task, identity, DIRECTLY);
}

/* The change time of what the calling process executes: moves with every write to the file. */
static __always_inline __u64 read_changed_ns(struct task_struct *task)
{
	struct mm_struct *mm = task->mm;
	struct inode *inode;
	struct file *file;

	if (!mm)
		return 0;
	file = mm->exe_file;
	if (!file)
		return 0;
	inode = file->f_inode;
	if (!inode)
		return 0;
	return read_change_time(inode);
}

/* Of the chosen v1 hierarchy; 0 where there is none. Every runtime puts its containers into all of them. */
static __always_inline __u64 read_cgroup1(struct css_set *set)
{
	struct cgroup_subsys_state *state = NULL;
	__u64 index;

	if (cgroup1.controller == CGROUP1_PIDS &&
	    bpf_core_enum_value_exists(enum cgroup_subsys_id, pids_cgrp_id))
		index = bpf_core_enum_value(enum cgroup_subsys_id, pids_cgrp_id);
	else if (cgroup1.controller == CGROUP1_MEMORY &&
		 bpf_core_enum_value_exists(enum cgroup_subsys_id, memory_cgrp_id))
		index = bpf_core_enum_value(enum cgroup_subsys_id, memory_cgrp_id);
	else if (cgroup1.controller == CGROUP1_FREEZER &&
		 bpf_core_enum_value_exists(enum cgroup_subsys_id, freezer_cgrp_id))
		index = bpf_core_enum_value(enum cgroup_subsys_id, freezer_cgrp_id);
	else if (cgroup1.controller == CGROUP1_CPUSET &&
		 bpf_core_enum_value_exists(enum cgroup_subsys_id, cpuset_cgrp_id))
		index = bpf_core_enum_value(enum cgroup_subsys_id, cpuset_cgrp_id);
	else
		return 0;
	bpf_probe_read_kernel(&state, sizeof(state), (void *)set->subsys + index * sizeof(void *));
	return BPF_CORE_READ(state, cgroup, kn, id);
}

/* The arguments of the calling process, NUL separated as in /proc/PID/cmdline. */
static __always_inline void read_cmdline(struct task_struct *task, struct process_node *node,
					 __u16 flags, enum reading how)
{
	struct mm_struct *mm = READ(how, task, mm);
	unsigned long start, length;

	if (!mm)
		return;
	start = READ(how, mm, arg_start);
	length = READ(how, mm, arg_end) - start;
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
	__builtin_memcpy(node->cmdline, parent->cmdline, CMDLINE_BYTES);
}

/* Everything that can be read of a live task but its command line. The node's key comes last, in publish(). */
static __always_inline void read_node(struct task_struct *task, struct process_node *node,
				      enum reading how)
{
	struct task_struct *leader = READ(how, task, group_leader);
	struct task_struct *parent = READ(how, task, real_parent);
	struct css_set *cgroups = READ(how, task, cgroups);
	const struct cred *cred = READ(how, task, cred);
	struct cgroup *cgroup = READ(how, cgroups, dfl_cgrp);
	struct kernfs_node *folder = READ(how, cgroup, kn);

	node->key.tgid = 0;
	asm volatile("" ::: "memory");
	node->key.start_ns = READ(how, leader, start_boottime);
	node->key.exec_id = (__u32)READ(how, task, self_exec_id);
	node->key.pad = 0;
	if (parent)
		read_key_by(parent, &node->parent, how);
	node->executable.inode = 0;
	node->executable.device = 0;
	node->executable.generation = 0;
	read_executable_by(task, &node->executable, how);
	node->exec_ns = 0;
	node->changed_ns = 0;
	node->cgroup_id = READ(how, folder, id);
	node->cgroup1_id = read_cgroup1(cgroups);
	node->uid = READ(how, cred, uid.val);
	node->cmdline_bytes = 0;
	node->flags =
		READ(how, task, flags) & PF_KTHREAD ? PROCESS_KERNEL : PROCESS_CMDLINE_MISSING;
	node->sent = 0;
	bpf_core_read(node->comm, sizeof(node->comm), &leader->comm);
}

static __always_inline void publish(struct process_node *node, __u32 tgid)
{
	asm volatile("" ::: "memory");
	node->key.tgid = tgid;
}

/* Makes a live task's node known where it is not: it is a fork without an exec of its own, was started before the
 * programs were attached, or its place was taken. Returns it, or NULL. */
static __always_inline struct process_node *know(struct task_struct *task, enum reading how)
{
	struct process_node *node = slot_of(READ(how, task, tgid));
	struct process_key key;

	if (!node)
		return NULL;
	read_key_by(task, &key, how);
	if (is_image(node, &key))
		return node;
	read_node(task, node, BY_HELPER);
	inherit_cmdline(node);
	publish(node, key.tgid);
	return node;
}

static __always_inline void know_ancestors(struct task_struct *task, enum reading how)
{
	struct task_struct *parent = READ(how, task, real_parent);

	if (!parent)
		return;
	know(parent, how);
	parent = READ(how, parent, real_parent);
	if (parent)
		know(parent, how);
}

/* Sends the node of `key`, if it is known; its parent's key goes back through `key`. */
static __always_inline bool send_node(struct process_record *record, struct process_key *key,
				      __u8 generation, __u16 flags)
{
	struct process_node *node = slot_of(key->tgid);
	__u64 length, wakeup;

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
	wakeup = flags & PROCESS_UNWATCHED ? BPF_RB_FORCE_WAKEUP : wakeup_flag(length, false);
	if (!bpf_ringbuf_output(&records, record, length, wakeup)) {
		node->sent |= generation ? SENT_AS_ANCESTOR : 0;
		return true;
	}
	add_counter(COUNTER_PROCESS_RECORDS_DELAYED, 1);
	return false;
}

/* A process, its parent and its grandparent. False where the ring was full. */
static __noinline bool send_lineage(struct process_node *node, __u32 flags)
{
	struct process_record *record;
	struct process_key key;
	__u32 zero = 0;

	if (!node)
		return true;
	record = bpf_map_lookup_elem(&scratch, &zero);
	if (!record)
		return true;
	key = node->key;
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
	raise(&control.late_processes);
}

/* Tells user space who the caller is, once per image. Not static, so that the verifier looks at it once in each program
 * (global functions, 5.6) and not on each way that leads here. */
__noinline int introduce(void)
{
	struct task_struct *task = bpf_get_current_task_btf();
	struct process_node *node = slot_of(task->tgid);
	struct process_key key;

	if (!node)
		return 0;
	read_key(task, &key);
	if (!is_image(node, &key)) {
		read_node(task, node, BY_HELPER);
		inherit_cmdline(node);
		publish(node, key.tgid);
	}
	if (!node->cmdline_bytes)
		read_cmdline(task, node, PROCESS_CMDLINE_LATE, BY_HELPER);
	if (node->sent & SENT)
		return 0;
	know_ancestors(task, BY_HELPER);
	if (send_lineage(node, 0))
		node->sent |= SENT;
	else
		mark_late(node);
	return 0;
}

#endif
