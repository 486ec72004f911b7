/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * Programs that do nothing on those hooks of the exporter where no design counts: on packets, on the peers of datagrams, on
 * TCP's copies. Each design has some of its own, as NAME() calls them: what the kernel takes for calling them is in all.
 */
#ifndef QUIET_HOOKS_H
#define QUIET_HOOKS_H

struct __sk_buff;

SEC("tp_btf/tcp_rcv_space_adjust")
int NAME(tcp_receive)(void *context)
{
	return 0;
}

SEC("tp_btf/skb_copy_datagram_iovec")
int NAME(copy)(void *context)
{
	return 0;
}

SEC("cgroup_skb/ingress")
int NAME(ingress)(struct __sk_buff *skb)
{
	return 1;
}

SEC("cgroup_skb/egress")
int NAME(egress)(struct __sk_buff *skb)
{
	return 1;
}

SEC("cgroup/sendmsg4")
int NAME(sendmsg)(struct bpf_sock_addr *context)
{
	return 1;
}

SEC("cgroup/recvmsg4")
int NAME(recvmsg)(struct bpf_sock_addr *context)
{
	return 1;
}

#endif
