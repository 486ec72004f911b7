// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
/*
 * The least that counts at the socket itself, on the hooks of the exporter: a lookup and an addition in each call,
 * storage that is made with the connection, and a record when it ends. Nobody's name, no peer, no name of a host: what is
 * above this is what those take.
 */
#include "kernel_types.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

#define CREATE BPF_LOCAL_STORAGE_GET_F_CREATE

struct counts {
	__u64 sent, received;
};

struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC | BPF_F_CLONE);
	__type(key, int);
	__type(value, struct counts);
} sockets SEC(".maps");

/* Nobody reads it: room for each connection of a loop, so that none is cheaper than another. */
struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 1 << 24);
} records SEC(".maps");

struct record {
	struct counts counts;
	__u64 others[16];
};

char LICENSE[] SEC("license") = "GPL";

#define NAME(program) storage_##program
#include "quiet_hooks.h"

SEC("tp_btf/sock_send_length")
int BPF_PROG(storage_send, struct sock *sk, int ret, int flags)
{
	struct counts *counts = bpf_sk_storage_get(&sockets, sk, NULL, CREATE);

	if (counts && ret > 0)
		__sync_fetch_and_add(&counts->sent, ret);
	return 0;
}

SEC("tp_btf/sock_recv_length")
int BPF_PROG(storage_receive, struct sock *sk, int ret, int flags)
{
	struct counts *counts = bpf_sk_storage_get(&sockets, sk, NULL, CREATE);

	if (counts && ret > 0)
		__sync_fetch_and_add(&counts->received, ret);
	return 0;
}

SEC("tp_btf/inet_sock_set_state")
int BPF_PROG(storage_state, struct sock *sk, int old_state, int new_state)
{
	/* The sockets that it accepts get a copy. */
	if (new_state == TCP_LISTEN)
		bpf_sk_storage_get(&sockets, sk, NULL, CREATE);
	return 0;
}

SEC("cgroup/connect4")
int storage_connect(struct bpf_sock_addr *context)
{
	bpf_sk_storage_get(&sockets, context->sk, NULL, CREATE);
	return 1;
}

SEC("cgroup/sock_release")
int storage_release(struct bpf_sock *sk)
{
	struct counts *counts = bpf_sk_storage_get(&sockets, sk, NULL, 0);
	struct record *record;

	if (!counts)
		return 1;
	record = bpf_ringbuf_reserve(&records, sizeof(*record), 0);
	if (!record)
		return 1;
	__builtin_memset(record, 0, sizeof(*record));
	record->counts = *counts;
	bpf_ringbuf_submit(record, BPF_RB_NO_WAKEUP);
	return 1;
}
