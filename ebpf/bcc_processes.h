/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * Processes that execute a program, and cgroups that are made.
 */
#ifndef BCC_PROCESSES_H
#define BCC_PROCESSES_H

/* Raw tracepoint sched_process_exec. Reads the command line before the program can change it, and tells user space of
 * executables that fanotify has no mark for. */
int note_exec(struct bpf_raw_tracepoint_args *ctx)
{
	struct task_struct *task = (struct task_struct *)ctx->args[0];
	struct control *control = get_control();
	struct process_node *node;
	u32 tgid, device, flags = 0;

	if (!control || !control->active)
		return 0;
	tgid = FETCH(task->tgid);
	node = slot_of(tgid);
	if (!node)
		return 0;
	/* The parent lives now and may have ended by the time this process opens a socket. */
	know_lineage(FETCH(task->real_parent), LINEAGE - 1);
	read_node(task, node);
	node->exec_ns = bpf_ktime_get_boot_ns();
	node->changed_ns = read_changed_ns(task);
	read_cmdline(task, node, 0);
	publish(node, tgid);
	device = node->executable.device;
	if (!watched_devices.lookup(&device))
		flags |= PROCESS_UNWATCHED;
	if (control->every_exe)
		flags |= PROCESS_EXEC;
	if (flags && send_lineage(node, flags))
		node->sent |= SENT;
	return 0;
}

/* Raw tracepoint cgroup_mkdir, called with cgroup_mutex held, so that no two of them share the scratch. */
int note_cgroup(struct bpf_raw_tracepoint_args *ctx)
{
	struct cgroup *cgroup = (struct cgroup *)ctx->args[0];
	struct cgroup_root *root = FETCH(cgroup->root);
	struct kernfs_node *node = FETCH(cgroup->kn);
	struct cgroup_key key = {};
	struct cgroup_path *value;
	u32 zero = 0;
	long length;

	key.hierarchy = FETCH(root->hierarchy_id);
	if (key.hierarchy && key.hierarchy != CGROUP1_HIERARCHY)
		return 0;
	if (!is_active())
		return 0;
	value = cgroup_scratch.lookup(&zero);
	if (!value)
		return 0;
	/* With the final NUL, which does not count. */
	length =
		bpf_probe_read_kernel_str(value->path, CGROUP_PATH_BYTES, (void *)ctx->args[1]) - 1;
	value->bytes = length < 0 ? 0 : length;
	key.cgroup_id = FETCH(node->id);
	if (new_cgroups.update(&key, value))
		add_counter(COUNTER_CGROUPS_LOST, 1);
	return 0;
}

#endif
