/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * What differs between the kernels that these programs run on (5.15 and up), each with the version in which it
 * changed, and between machines. Flavours of a type (`___before_6_6`) carry the other fields: libbpf looks them up under
 * the type's name.
 *
 * Fields of kernel_types.h that are older than that, and need nothing here:
 *   sk_protocol          8 bits in a bit field until 5.5, 16 from 5.6 (bf9765145b85): MPTCP's number needs 9
 *   start_boottime       real_start_time until 5.4 (cf25e24db61c)
 *   self_exec_id         32 bits until 5.6 (d1e7fd6462ca)
 *   skc_net              a pointer instead of possible_net_t until 4.0 (0c5c9fb55106)
 *   kernfs_node.id       a union until 5.4 (67c0496e87d1)
 */
#ifndef DRIFT_H
#define DRIFT_H

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

/* The change time: i_ctime until 6.5, __i_ctime from 6.6 (13bc24457850), two fields from 6.11 (3aa63a569c64). */
struct inode___before_6_6 {
	struct timespec64 i_ctime;
};

struct inode___before_6_11 {
	struct timespec64 __i_ctime;
};

/* Registers of a program of user space, as a probe finds them: which those are is the machine's C calling convention. */
struct pt_regs___x86_64 {
	unsigned long di;
	unsigned long cx;
	unsigned long ax;
};

struct pt_regs___arm64 {
	__u64 regs[31];
};

#pragma clang attribute pop

static __always_inline __u64 read_change_time(struct inode *inode)
{
	struct inode___before_6_11 *before_6_11 = (void *)inode;
	struct inode___before_6_6 *before_6_6 = (void *)inode;

	if (bpf_core_field_exists(inode->i_ctime_sec))
		/* From 6.13 on the top bit says that somebody has read the time (4e40eff0b573). */
		return inode->i_ctime_sec * 1000000000ULL + (inode->i_ctime_nsec & 0x7fffffff);
	if (bpf_core_field_exists(before_6_11->__i_ctime))
		return BPF_CORE_READ(before_6_11, __i_ctime.tv_sec) * 1000000000ULL +
		       BPF_CORE_READ(before_6_11, __i_ctime.tv_nsec);
	return BPF_CORE_READ(before_6_6, i_ctime.tv_sec) * 1000000000ULL +
	       BPF_CORE_READ(before_6_6, i_ctime.tv_nsec);
}

/* A register by its names. Each is read on its own, as the verifier takes no address that the compiler has computed from
 * `registers` for both machines. */
#define REGISTER(registers, of_arm64, of_x86_64)                       \
	({                                                             \
		struct pt_regs___x86_64 *x86_64 = (void *)(registers); \
		struct pt_regs___arm64 *arm64 = (void *)(registers);   \
		__u64 value;                                           \
                                                                       \
		if (bpf_core_field_exists(arm64->regs)) {              \
			value = arm64->of_arm64;                       \
			asm volatile("" : "+r"(value));                \
		} else {                                               \
			value = x86_64->of_x86_64;                     \
			asm volatile("" : "+r"(value));                \
		}                                                      \
		value;                                                 \
	})

/* The calling thread's note, or NULL. Task storage is for tracing programs only (5.13) until cgroup programs may use it
 * too (6.16): the loader tries. */
static __always_inline struct peer_note *find_note(void)
{
	struct task_struct *task = bpf_get_current_task_btf();
	__u32 thread;

	if (!notes_by_thread)
		return bpf_task_storage_get(&peers, task, NULL, 0);
	thread = task->pid;
	return bpf_map_lookup_elem(&thread_peers, &thread);
}

static __always_inline struct peer_note *make_note(void)
{
	struct task_struct *task = bpf_get_current_task_btf();
	struct peer_note fresh = {};
	struct peer_note *note;
	__u32 thread;

	if (!notes_by_thread)
		return bpf_task_storage_get(&peers, task, NULL, BPF_LOCAL_STORAGE_GET_F_CREATE);
	thread = task->pid;
	note = bpf_map_lookup_elem(&thread_peers, &thread);
	if (note)
		return note;
	bpf_map_update_elem(&thread_peers, &thread, &fresh, BPF_ANY);
	return bpf_map_lookup_elem(&thread_peers, &thread);
}

#endif
