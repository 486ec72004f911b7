// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
/*
 * Programs that do nothing, on each hook of the exporter that a call, a packet or a connection passes: what the kernel
 * takes for calling those, whatever they do.
 */
#include "kernel_types.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

char LICENSE[] SEC("license") = "GPL";

struct __sk_buff;

SEC("tp_btf/sock_send_length")
int BPF_PROG(hooks_send, struct sock *sk, int ret, int flags)
{
	return 0;
}

SEC("tp_btf/sock_recv_length")
int BPF_PROG(hooks_receive, struct sock *sk, int ret, int flags)
{
	return 0;
}

SEC("tp_btf/tcp_rcv_space_adjust")
int BPF_PROG(hooks_tcp_receive, struct sock *sk)
{
	return 0;
}

SEC("tp_btf/skb_copy_datagram_iovec")
int BPF_PROG(hooks_copy, const struct sk_buff *skb, int length)
{
	return 0;
}

SEC("tp_btf/inet_sock_set_state")
int BPF_PROG(hooks_state, const struct sock *sk, int old_state, int new_state)
{
	return 0;
}

SEC("cgroup_skb/ingress")
int hooks_ingress(struct __sk_buff *skb)
{
	return 1;
}

SEC("cgroup_skb/egress")
int hooks_egress(struct __sk_buff *skb)
{
	return 1;
}

SEC("cgroup/sendmsg4")
int hooks_sendmsg(struct bpf_sock_addr *context)
{
	return 1;
}

SEC("cgroup/recvmsg4")
int hooks_recvmsg(struct bpf_sock_addr *context)
{
	return 1;
}

SEC("cgroup/connect4")
int hooks_connect(struct bpf_sock_addr *context)
{
	return 1;
}

SEC("cgroup/sock_release")
int hooks_release(struct bpf_sock *sk)
{
	return 1;
}
