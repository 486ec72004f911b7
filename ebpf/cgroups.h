/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * Which cgroup is which: a path for each number, noted when the cgroup is made. That costs nothing per process or
 * packet, and is exact for containers that are gone before anybody can look for them.
 */
#ifndef CGROUPS_H
#define CGROUPS_H

/* Called with cgroup_mutex held, so that no two of them share the scratch. The path is that of the hierarchy itself,
 * whatever namespace its reader is in. */
SEC("tp_btf/cgroup_mkdir")
int BPF_PROG(cgroup_mkdir, struct cgroup *cgroup, const char *path)
{
	struct cgroup_key key = {};
	struct cgroup_path *value;
	__u32 zero = 0;
	long length;

	key.hierarchy = cgroup->root->hierarchy_id;
	if (key.hierarchy && key.hierarchy != cgroup1.hierarchy)
		return 0;
	if (is_abandoned())
		return 0;
	value = bpf_map_lookup_elem(&cgroup_scratch, &zero);
	if (!value)
		return 0;
	/* With the final NUL, which does not count. */
	length = bpf_probe_read_kernel_str(value->path, CGROUP_PATH_BYTES, path) - 1;
	value->bytes = length < 0 ? 0 : length;
	key.cgroup_id = cgroup->kn->id;
	if (bpf_map_update_elem(&new_cgroups, &key, value, BPF_ANY))
		add_counter(COUNTER_CGROUPS_LOST, 1);
	return 0;
}

#endif
