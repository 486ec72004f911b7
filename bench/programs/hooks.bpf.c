// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
/*
 * Programs that do nothing, on each hook of the exporter that a call, a packet or a connection passes: what the kernel
 * takes for calling those, whatever they do.
 */
#include "kernel_types.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

char LICENSE[] SEC("license") = "GPL";

#define NAME(program) hooks_##program
#include "quiet_hooks.h"

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

SEC("tp_btf/inet_sock_set_state")
int BPF_PROG(hooks_state, const struct sock *sk, int old_state, int new_state)
{
	return 0;
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
