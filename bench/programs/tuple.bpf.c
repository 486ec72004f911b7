// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
/*
 * The usual way to count: a hash by connection and process, as most tools that show traffic by
 * process have it. Here to compare the time that it takes with that of socket storage.
 */
#include "kernel_types.h"
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

#define BPF_ANY 0

struct connection {
	__u32 laddr, raddr;
	__u16 lport, rport;
	__u32 tgid;
};

struct totals {
	__u64 sent, received;
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 65536);
	__type(key, struct connection);
	__type(value, struct totals);
} by_tuple SEC(".maps");

static __always_inline void add(struct sock *sk, __u64 sent, __u64 received)
{
	struct connection key = {
		.laddr = sk->__sk_common.skc_rcv_saddr,
		.raddr = sk->__sk_common.skc_daddr,
		.lport = sk->__sk_common.skc_num,
		.rport = sk->__sk_common.skc_dport,
		.tgid = bpf_get_current_pid_tgid() >> 32,
	};
	struct totals none = { 0 }, *totals = bpf_map_lookup_elem(&by_tuple, &key);

	if (!totals) {
		bpf_map_update_elem(&by_tuple, &key, &none, BPF_ANY);
		totals = bpf_map_lookup_elem(&by_tuple, &key);
		if (!totals)
			return;
	}
	if (sent)
		__sync_fetch_and_add(&totals->sent, sent);
	if (received)
		__sync_fetch_and_add(&totals->received, received);
}

char LICENSE[] SEC("license") = "GPL";

SEC("tp_btf/sock_send_length")
int BPF_PROG(tuple_send, struct sock *sk, int ret, int flags)
{
	if (ret > 0)
		add(sk, ret, 0);
	return 0;
}

SEC("tp_btf/sock_recv_length")
int BPF_PROG(tuple_receive, struct sock *sk, int ret, int flags)
{
	if (ret > 0)
		add(sk, 0, ret);
	return 0;
}
