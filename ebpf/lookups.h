/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * What getaddrinfo() has answered, for names that come over no DNS that can be read: encrypted resolvers, D-Bus,
 * /etc/hosts. Not part of a plan: bpf.getaddrinfo loads these two and attaches them to C libraries.
 */
#ifndef LOOKUPS_H
#define LOOKUPS_H

/* netdb.h of glibc and musl, on 64 bits. */
struct user_addrinfo {
	__s32 flags;
	__s32 family;
	__s32 type;
	__s32 protocol;
	__u32 address_bytes;
	__u32 pad;
	__u64 address;
	__u64 canonical_name;
	__u64 next;
};

struct lookup {
	__u64 name;
	__u64 results;
};

/* Calls that have not returned, by thread. Where there are too many, or a thread is killed in one, the oldest go. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 1024);
	__type(key, __u64);
	__type(value, struct lookup);
} lookups SEC(".maps");

SEC("uprobe")
int getaddrinfo_called(struct pt_regs *registers)
{
	__u64 thread = bpf_get_current_pid_tgid();
	struct lookup lookup = {
		.name = REGISTER(registers, regs[0], di),
		.results = REGISTER(registers, regs[3], cx),
	};

	if (lookup.name && lookup.results)
		bpf_map_update_elem(&lookups, &thread, &lookup, BPF_ANY);
	return 0;
}

static __always_inline void read_socket_address(__u64 from, __s32 family, __u8 *address)
{
	__be32 ipv4 = 0;

	if (family == AF_INET6)
		bpf_probe_read_user(address, 16, (const void *)(from + 8));
	else if (family == AF_INET &&
		 !bpf_probe_read_user(&ipv4, sizeof(ipv4), (const void *)(from + 4)))
		map_ipv4(address, ipv4);
}

/* In the list's order, zero where an entry has none: user space leaves those out, and the same one for each type of
 * socket. */
static __noinline int read_addresses(struct lookup_record *record, __u64 next)
{
	struct user_addrinfo found;
	int i;

	if (!record)
		return 0;
	for (i = 0; i < LOOKUP_ADDRESSES; i++) {
		if (!next || bpf_probe_read_user(&found, sizeof(found), (const void *)next))
			break;
		next = found.next;
		read_socket_address(found.address, found.family, record->addresses[i]);
	}
	record->address_count = i;
	return 0;
}

SEC("uretprobe")
int getaddrinfo_returned(struct pt_regs *registers)
{
	struct task_struct *task = bpf_get_current_task_btf();
	__u64 thread = bpf_get_current_pid_tgid();
	struct lookup_record *record;
	struct lookup *lookup;
	__u64 name, results;
	long bytes;

	lookup = bpf_map_lookup_elem(&lookups, &thread);
	if (!lookup)
		return 0;
	name = lookup->name;
	results = lookup->results;
	bpf_map_delete_elem(&lookups, &thread);
	if ((__s32)REGISTER(registers, regs[0], ax) ||
	    bpf_probe_read_user(&results, sizeof(results), (const void *)results))
		return 0;
	record = is_ring_half_full() ? NULL : bpf_ringbuf_reserve(&records, sizeof(*record), 0);
	if (!record) {
		add_counter(COUNTER_DNS_RECORDS_LOST, 1);
		return 0;
	}
	/* A read that fails zeroes what it should have filled, and nothing can be read at NULL. */
	bpf_probe_read_user(record, sizeof(*record), NULL);
	record->header.kind = RECORD_LOOKUP;
	record->header.time_ns = bpf_ktime_get_boot_ns();
	read_key(task, &record->owner);
	record->netns = task->nsproxy->net_ns->ns.inum;
	bytes = bpf_probe_read_user_str(record->name, sizeof(record->name), (const void *)name);
	/* Names have 253 bytes at the most: one that fills all of it was cut. */
	if (bytes > 1 && bytes < LOOKUP_NAME_BYTES) {
		record->name_bytes = bytes - 1;
		read_addresses(record, results);
	}
	if (record->address_count)
		bpf_ringbuf_submit(record, wakeup_flag(sizeof(*record), true));
	else
		bpf_ringbuf_discard(record, BPF_RB_NO_WAKEUP);
	return 0;
}

#endif
