/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * Which cgroup is which: a path for each number, told when the cgroup is made. That costs nothing per process or
 * packet, and is exact for containers that are gone before anybody can look for them.
 */
#ifndef CGROUPS_H
#define CGROUPS_H

/* Called with cgroup_mutex held, so that no two of them share the scratch. The path is that of the hierarchy itself,
 * whatever namespace its reader is in. */
SEC("tp_btf/cgroup_mkdir")
int BPF_PROG(cgroup_mkdir, struct cgroup *cgroup, const char *path)
{
	__u32 hierarchy = cgroup->root->hierarchy_id;
	struct cgroup_record *record;
	__u32 zero = 0;
	long length;

	if (hierarchy && hierarchy != cgroup1.hierarchy)
		return 0;
	if (is_abandoned())
		return 0;
	record = bpf_map_lookup_elem(&cgroup_scratch, &zero);
	if (!record)
		return 0;
	/* With the final NUL, which is not sent. */
	length = bpf_probe_read_kernel_str(record->path, CGROUP_PATH_BYTES, path) - 1;
	if (length < 0)
		length = 0;
	record->header.kind = RECORD_CGROUP;
	record->header.flags = 0;
	record->header.pad = 0;
	record->header.time_ns = bpf_ktime_get_boot_ns();
	record->cgroup_id = cgroup->kn->id;
	record->hierarchy = hierarchy;
	record->path_bytes = length;
	record->pad = 0;
	if (bpf_ringbuf_output(&records, record,
			       offsetof(struct cgroup_record, path) +
				       (length & (CGROUP_PATH_BYTES - 1)),
			       wakeup_flag()))
		add_counter(COUNTER_CGROUP_RECORDS_LOST, 1);
	return 0;
}

#endif
