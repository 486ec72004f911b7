/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * The kernel's own headers, and how its fields are read.
 */
#ifndef BCC_KERNEL_H
#define BCC_KERNEL_H

#include <uapi/linux/ptrace.h>
#include <linux/version.h>
#include <linux/sched.h>
#include <linux/sched/signal.h>
#include <linux/mm_types.h>
#include <linux/fs.h>
#include <linux/cred.h>
#include <linux/cgroup-defs.h>
#include <linux/kernfs.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/skbuff.h>
#include <linux/tcp.h>
#include <linux/udp.h>
#include <net/inet_sock.h>
#include <net/net_namespace.h>
#include <net/sock.h>
#include <net/tcp.h>
#include <net/tcp_states.h>

/* A copy of one field. Without BTF the verifier lets no program follow the kernel's pointers, so each step of
 * a->b->c is one FETCH. */
#define FETCH(field)                                                                  \
	({                                                                            \
		typeof(field) _fetched;                                               \
		bpf_probe_read_kernel((void *)&_fetched, sizeof(_fetched), &(field)); \
		_fetched;                                                             \
	})

#ifndef IPPROTO_MPTCP
#define IPPROTO_MPTCP 262
#endif

static __always_inline struct task_struct *get_task(void)
{
	return (struct task_struct *)bpf_get_current_task();
}

/* BCC declares it with a result of 32 bits. */
static u64 (*generate_cookie)(void *context) = (void *)BPF_FUNC_get_socket_cookie;

static __always_inline u32 read_netns(struct sock *sk)
{
#ifdef CONFIG_NET_NS
	struct net *net = FETCH(sk->__sk_common.skc_net.net);

	return FETCH(net->ns.inum);
#else
	return 0;
#endif
}

/* The change time of a file: i_ctime until 6.5, __i_ctime from 6.6 (13bc24457850), two fields from 6.11
 * (3aa63a569c64), whose top bit says from 6.13 on that somebody has read it (4e40eff0b573). */
static __always_inline u64 read_ctime_ns(struct inode *inode)
{
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 11, 0)
	return FETCH(inode->i_ctime_sec) * 1000000000ULL +
	       (FETCH(inode->i_ctime_nsec) & 0x7fffffff);
#elif LINUX_VERSION_CODE >= KERNEL_VERSION(6, 6, 0)
	return FETCH(inode->__i_ctime.tv_sec) * 1000000000ULL + FETCH(inode->__i_ctime.tv_nsec);
#else
	return FETCH(inode->i_ctime.tv_sec) * 1000000000ULL + FETCH(inode->i_ctime.tv_nsec);
#endif
}

#endif
