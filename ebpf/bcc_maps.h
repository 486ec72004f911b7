/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * What the programs without BTF share. Every map is allocated when it is made: programs at kprobes may not allocate
 * before Linux 6.1 (the kernel warns, and could deadlock). All in all 50 MB.
 */
#ifndef BCC_MAPS_H
#define BCC_MAPS_H

/* Flags of a socket that stay out of records. */
enum {
	SOCKET_OPENED = 1 << 16, /* its connection with the present peer is counted */
	SOCKET_INTRODUCED = 1 << 17, /* user space has been told of its owner */
};

/* A socket and what was counted on it since its last record: programs add, whoever reports takes with an atomic
 * exchange. 64 bits wide, since BCC's compiler has atomic operations of that width only. */
struct socket_state {
	u64 transmit_bytes;
	u64 receive_bytes;
	u64 transmit_calls;
	u64 receive_calls;
	u64 connections;
	u64 connect_failures;
	u64 is_queued; /* in dirty_sockets */
	u64 provisional; /* 0 used by its owner; else provisional.h */
	u64 waited_round; /* drain that has last made it wait */
	struct process_key owner;
	struct file_identity executable;
	u64 cookie;
	u32 copied_seq; /* tcp_sock.copied_seq up to which receive_bytes has counted */
	u32 netns;
	u32 uid;
	u32 flags; /* FLOW_KERNEL, SOCKET_* */
	u8 local_address[16];
	u8 remote_address[16]; /* of an unconnected datagram socket: the last peer that was named */
	u16 local_port;
	u16 remote_port;
	u16 protocol;
	u8 family;
	u8 direction;
};

static __always_inline void read_owner(const struct socket_state *state, struct process_key *owner)
{
	*owner = state->owner;
}

/* By the address of the kernel's struct sock: from its first use, connect() or accept() until its release. */
#define SOCKETS_MAX 65536
BPF_TABLE("hash", u64, struct socket_state, sockets, SOCKETS_MAX);

/* Each socket that has counts stands here once, and a drain need not look at the others. Twice as many as sockets,
 * as one may have been released and another one got its address before a drain comes. */
BPF_QUEUE(dirty_sockets, u64, 2 * SOCKETS_MAX);

/* Whatever is not the owner's traffic with the socket's one peer, as in maps.h. */
struct flow_key {
	u64 cookie;
	u64 exec_id;
	u8 remote_address[16];
	u32 tgid;
	u16 remote_port;
	u16 protocol;
	u8 family;
	u8 is_second; /* of two with the same peer, while the first one is closing */
	u8 pad[6];
};

struct flow_state {
	u64 transmit_bytes;
	u64 receive_bytes;
	u64 transmit_calls;
	u64 receive_calls;
	u64 connections;
	u64 is_queued; /* in dirty_flows */
	u64 aged_round; /* drain that has last looked at its age */
	u32 idle_rounds; /* expiring drains since it last had traffic */
	u32 closing; /* expired: no program adds to it any more, the next drain deletes it */
	u32 flags;
	u32 netns;
	u64 start_ns;
	struct file_identity executable;
	u8 local_address[16];
	u16 local_port;
	u8 direction;
	u8 pad;
	u32 uid;
};

#define FLOWS_MAX      32768
#define FLOWS_OF_PEERS (FLOWS_MAX / 8 * 7)
BPF_TABLE("hash", struct flow_key, struct flow_state, flows, FLOWS_MAX);
BPF_QUEUE(dirty_flows, struct flow_key, FLOWS_MAX);
/* Every flow, in the order in which their ages are looked at. */
BPF_QUEUE(ages, struct flow_key, FLOWS_MAX);

/* Final records that found the ring full. */
BPF_QUEUE(fallback, struct flow_record, 32768);

/* RING_PAGES is set by the loader (bpf.ring_buffer_pages). */
BPF_RINGBUF_OUTPUT(records, RING_PAGES);

enum {
	SENT = 1,
	SENT_AS_ANCESTOR = 2,
	SENT_LATE = 4, /* the ring was full: user space reads it from here */
};

/* One image of a process, as in maps.h. User space maps these and looks for SENT_LATE (sensor/bcc/late.py). */
struct process_node {
	struct process_key key; /* key.tgid 0 while the rest is being written */
	struct process_key parent;
	struct file_identity executable;
	u64 exec_ns;
	u64 changed_ns;
	u64 cgroup_id;
	u64 cgroup1_id;
	u32 uid;
	u16 cmdline_bytes;
	u16 flags;
	u32 sent;
	u32 pad;
	char comm[COMM_BYTES];
	char cmdline[CMDLINE_BYTES];
};
ASSERT_SIZE(process_node, 112 + COMM_BYTES + CMDLINE_BYTES);

#define PROCESS_SLOTS 8192
BPF_F_TABLE("array", u32, struct process_node, processes, PROCESS_SLOTS, BPF_F_MMAPABLE);

/* A call on a socket that this thread is in, from its entry to its return. */
enum call_kind {
	CALL_SEND,
	CALL_RECEIVE,
	CALL_ACCEPT,
};

struct call {
	struct sock *sk;
	struct socket *accepted; /* the socket that accept() fills */
	u8 remote_address[16]; /* the peer that a datagram was sent to or came from */
	u16 remote_port;
	u8 has_peer;
	u8 kind;
	u32 pad;
};

/* By thread. As many threads as that may wait in one at the same time. */
#define CALLS_MAX 32768
BPF_TABLE("hash", u64, struct call, calls, CALLS_MAX);
/* connect() has a map of its own, as it is part of a send with TCP Fast Open. */
BPF_TABLE("hash", u64, struct call, connects, 4096);

/* Superblocks that fanotify watches: key is the kernel's device number. */
BPF_TABLE("hash", u32, u8, watched_devices, 4096);

BPF_PERCPU_ARRAY(counters, u64, COUNTER_MAX);

/* A record whose payload has room for what a mask lets through. */
#define DNS_ROOM 2048
struct dns_room {
	struct dns_record record;
	u8 more[DNS_ROOM - DNS_BYTES];
};

/* Room for what is too large for the stack. */
BPF_PERCPU_ARRAY(scratch, struct process_record, 1);
BPF_PERCPU_ARRAY(fresh_sockets, struct socket_state, 1);
BPF_PERCPU_ARRAY(fresh_flows, struct flow_state, 1);
BPF_PERCPU_ARRAY(late_records, struct flow_record, 1);
BPF_PERCPU_ARRAY(moved_records, struct flow_record, 1);
BPF_PERCPU_ARRAY(dns_scratch, struct dns_room, 1);
BPF_PERCPU_ARRAY(cgroup_scratch, struct cgroup_path, 1);

/* Cgroups that were made and not taken yet. */
BPF_TABLE("hash", struct cgroup_key, struct cgroup_path, new_cgroups, 4096);

/* One element, whose memory user space maps. */
BPF_F_TABLE("array", u32, struct control, control_block, 1, BPF_F_MMAPABLE);

/* What the drains and user space tell each other. */
struct drain_block {
	u64 round; /* number of the drain that runs: counted by user space */
	u64 moved; /* by a run of a drain's program */
	u64 is_stopped; /* that run has found the ring full */
	u64 socket_count; /* entries in sockets */
	u64 unread_bytes; /* put into the ring since a drain last began */
	u64 missed_calls; /* more threads in calls than there is room for */
	u64 late_count; /* entries in fallback */
};
ASSERT_SIZE(drain_block, 56);
BPF_F_TABLE("array", u32, struct drain_block, drain, 1, BPF_F_MMAPABLE);

static __always_inline struct control *get_control(void)
{
	u32 zero = 0;

	return control_block.lookup(&zero);
}

static __always_inline struct drain_block *get_drain(void)
{
	u32 zero = 0;

	return drain.lookup(&zero);
}

static __always_inline bool is_active(void)
{
	struct control *control = get_control();

	return control && control->active;
}

static __always_inline bool counts_bytes(void)
{
	struct control *control = get_control();

	return control && control->count_bytes;
}

static __always_inline void add_counter(u32 index, u64 amount)
{
	u64 *value = counters.lookup(&index);

	if (value)
		__sync_fetch_and_add(value, amount);
}

/* A store to a shared cache line for each call would cost more than all the rest: write only what changes. */
static __always_inline void raise_flag(volatile u32 *flag)
{
	if (!*flag)
		*flag = 1;
}

enum dirty_map {
	DIRTY_SOCKETS,
	DIRTY_FLOWS,
	DIRTY_FALLBACK,
	DIRTY_PROCESSES,
};

static __always_inline void raise_dirty(enum dirty_map map)
{
	struct control *control = get_control();

	if (!control)
		return;
	if (map == DIRTY_SOCKETS)
		raise_flag(&control->sockets_dirty);
	else if (map == DIRTY_FLOWS)
		raise_flag(&control->flows_dirty);
	else if (map == DIRTY_FALLBACK)
		raise_flag(&control->fallback_dirty);
	else
		raise_flag(&control->late_processes);
}

/* BCC has no way to ask how full the ring is, so what came since the last drain is counted. */
static __always_inline u64 get_unread_bytes(void)
{
	struct drain_block *block = get_drain();

	return block ? block->unread_bytes : 0;
}

static __always_inline u64 wakeup_flag(u64 bytes)
{
	struct drain_block *block = get_drain();
	struct control *control = get_control();

	if (!block || !control)
		return BPF_RB_NO_WAKEUP;
	__sync_fetch_and_add(&block->unread_bytes, bytes);
	return wakeup_at(block->unread_bytes, control->wakeup_bytes, bytes);
}

/* flow_count and the padding behind it are one aligned word of 64 bits, whose lower half is flow_count. */
_Static_assert(offsetof(struct control, flow_count) % 8 == 0, "flow_count");
static __always_inline void add_flow_count(s64 change)
{
	struct control *control = get_control();

	if (control)
		__sync_fetch_and_add((u64 *)&control->flow_count, change);
}

static __always_inline void add_missed_call(void)
{
	struct drain_block *block = get_drain();

	if (block)
		__sync_fetch_and_add(&block->missed_calls, 1);
}

static __always_inline void add_socket_count(s64 change)
{
	struct drain_block *block = get_drain();

	if (block)
		__sync_fetch_and_add(&block->socket_count, change);
}

static __always_inline void add_late_count(s64 change)
{
	struct drain_block *block = get_drain();

	if (block)
		__sync_fetch_and_add(&block->late_count, change);
}

#endif
