/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * What the programs share: the maps, the control block, the counters, and the ring.
 */
#ifndef MAPS_H
#define MAPS_H

/* Flags of a socket that stay out of records. */
enum {
	SOCKET_OPENED = 1 << 16, /* its connection with the present peer is counted */
};

/* A socket and what was counted on it. The counters hold what has not been reported yet: programs add
 * to them, whoever reports takes them with an atomic exchange, so that any number of reporters at once take each
 * byte exactly once. Everything else is written by the one that claims the socket. With 10,000 sockets, time goes to cache
 * misses: what each call looks at is on the first line, on which the kernel puts 8 bytes of its own before it. */
struct socket_state {
	__u64 transmit_bytes;
	__u64 receive_bytes;
	__u32 transmit_calls;
	__u32 receive_calls;
	__u8 remote_address[16]; /* of the one peer that the counters are for */
	__u32 owner_tgid; /* stays 0 until all the rest is written */
	__u32 owner_exec_id;
	__u32 provisional; /* 0 used by its owner; else provisional.h */
	__u16 remote_port;
	__u8 direction;
	__u8 family;
	/* The second cache line: connections, peers of unconnected sockets, TCP's receives. */
	__u8 noted_address[16]; /* of an unconnected socket: whom its last packet was from or for */
	__u64 cookie;
	__u64 first_peer; /* of an unconnected socket: its hash (traffic.h), 0 before the first call */
	__u32 flags; /* FLOW_KERNEL, SOCKET_* */
	__u32 copied_seq; /* tcp_sock.copied_seq up to which receive_bytes has counted */
	__u32 connections;
	__u32 connect_failures;
	__u32 connecting; /* a connect() that has not got as far as SYN_SENT */
	__u32 claimed; /* 0, or by whom, once an owner is being written (accounting.h) */
	__u16 noted_port;
	__u8 has_copied_seq; /* seen from its first byte on */
	__u8 names_peers; /* its receives ask for addresses: arriving packets need not be noted */
	__u8 is_settled; /* the first peer is written as the remote one */
	__u8 is_child; /* accepted: what was copied from the listener has been replaced */
	__u8 unseen; /* reported as a socket whose bytes no hook can see */
	__u8 by_pages; /* pages were sent on it (functions.h) */
	/* The third: what only records need. */
	__u64 owner_start_ns;
	struct file_identity executable;
	__u8 local_address[16];
	__u32 netns;
	__u32 uid;
	__u16 local_port;
	__u16 protocol;
	__u8 pad[4];
};

static __always_inline void read_owner(const struct socket_state *state, struct process_key *owner)
{
	owner->start_ns = state->owner_start_ns;
	owner->exec_id = state->owner_exec_id;
	owner->tgid = state->owner_tgid;
	owner->pad = 0;
}

struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC | BPF_F_CLONE);
	__type(key, int);
	__type(value, struct socket_state);
} sockets SEC(".maps");

/* Whatever is not the first user's traffic with the socket's one peer: other processes on the same socket, all
 * peers but the first of an unconnected datagram socket, and sockets that can't have storage (AF_PACKET has no release
 * hook). A byte is counted either in a socket's state or in one flow, never in both. */
struct flow_key {
	__u64 cookie;
	__u8 remote_address[16];
	__u32 tgid;
	__u32 exec_id;
	__u16 remote_port;
	__u16 protocol;
	__u8 family;
	__u8 pad[3];
};

/* What each call looks at comes first: it is on one cache line with the end of the key. */
struct flow_state {
	__u64 transmit_bytes;
	__u64 receive_bytes;
	__u32 transmit_calls;
	__u32 receive_calls;
	__u32 closing; /* expired: no program adds to it any more, the next drain deletes it */
	__u32 connections;
	__u32 idle_rounds; /* expiring drains since it last had traffic */
	__u32 flags;
	__u64 start_ns;
	struct file_identity executable;
	__u8 local_address[16];
	__u16 local_port;
	__u8 direction;
	__u8 pad;
	__u32 netns;
	__u32 uid;
	__u32 pad2;
};

/* A datagram's peer may be left out, its bytes are then counted under the socket. What has no other place than this
 * map always finds some room that no flood of peers can take. */
#define FLOWS_MAX      131072
#define FLOWS_OF_PEERS (FLOWS_MAX / 8 * 7)

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, FLOWS_MAX);
	__type(key, struct flow_key);
	__type(value, struct flow_state);
} flows SEC(".maps");

/* Final records that found the ring full, by cookie. Written once each; the drain moves them into the ring. Room
 * for the 60,000 of a minute without a reader at 1,000 closed connections a second. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 65536);
	__type(key, __u64);
	__type(value, struct flow_record);
} fallback SEC(".maps");

/* Size set by the loader (bpf.ring_buffer_pages). */
struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 256 * 1024);
} records SEC(".maps");

enum {
	SENT = 1,
	SENT_AS_ANCESTOR = 2,
	SENT_LATE = 4, /* the ring was full: user space asks, see introduce_again */
};

/* One image of a process. The command line is read at exec, before the program can overwrite it. */
struct process_node {
	struct process_key key; /* key.tgid 0 while the rest is being written */
	struct process_key parent;
	struct file_identity executable;
	__u64 exec_ns;
	__u64 changed_ns;
	__u64 cgroup_id;
	__u64 cgroup1_id;
	__u32 uid;
	__u16 cmdline_bytes;
	__u16 flags;
	__u32 sent; /* SENT once its lineage is in the ring, SENT_AS_ANCESTOR with that of another, SENT_LATE if not yet */
	__u32 pad;
	char comm[COMM_BYTES];
	char cmdline[CMDLINE_BYTES];
};

/* The nodes of processes, by the low bits of their number, and kept after they have ended until another process
 * comes to the same place: process numbers are handed out in order, so that a parent that has exited is still
 * known for thousands of forks. 5 MB. Storing a node in task storage costs 3 to 5 us at each exec, this 0.2. */
#define PROCESS_SLOTS 8192

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, PROCESS_SLOTS);
	__type(key, __u32);
	__type(value, struct process_node);
} processes SEC(".maps");

/* The peer of the datagram that this thread is moving right now: noted by the cgroup hooks (on raw sockets, as
 * it is copied to the reader), taken by the tracepoint. By thread and not by socket, since several threads may use one socket at once. */
struct peer_note {
	__u8 address[16];
	__u16 port;
	__u8 set;
	__u8 by_pages; /* this thread is inside inet_sendpage() (functions.h) */
};

struct {
	__uint(type, BPF_MAP_TYPE_TASK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct peer_note);
} peers SEC(".maps");

/* The same by thread number, for kernels whose cgroup programs may not use task storage. What is here is looked at before
 * the call that it is about returns, so the loader does not pin it; of the calls of 16,384 threads at once, some would
 * count under their socket. */
#define THREAD_PEERS 16384

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, THREAD_PEERS);
	__type(key, __u32);
	__type(value, struct peer_note);
} thread_peers SEC(".maps");

/* Superblocks that fanotify watches: key is the kernel's device number. An exec from any other one is reported
 * at once, so that user space can open the file while the process lives. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4096);
	__type(key, __u32);
	__type(value, __u8);
} watched_devices SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, COUNTER_MAX);
	__type(key, __u32);
	__type(value, __u64);
} counters SEC(".maps");

/* Scratch for a record too large for the 512 byte stack. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct process_record);
} scratch SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct cgroup_path);
} cgroup_scratch SEC(".maps");

/* Cgroups that were made and not taken yet. Not in the ring, which others may fill: a container that has ended can't
 * be looked for. Memory is taken per entry. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 16384);
	__type(key, struct cgroup_key);
	__type(value, struct cgroup_path);
} new_cgroups SEC(".maps");

struct control control;

/* Which set of programs this is. Two sets may be attached to the same maps while one replaces the other: one
 * store to control.active switches over, so that no call is counted by both or by neither. */
const volatile __u32 generation = 1;

/* Where there are v1 hierarchies, a container may be in no cgroup of v2. One of them is read as well. */
enum cgroup1_controller {
	CGROUP1_NONE = 0,
	CGROUP1_PIDS = 1,
	CGROUP1_MEMORY = 2,
	CGROUP1_FREEZER = 3,
	CGROUP1_CPUSET = 4,
};
const volatile struct {
	__u32 controller; /* enum cgroup1_controller */
	__u32 hierarchy; /* its number in /proc/cgroups */
} cgroup1;

/* The plan has no hook for AF_VSOCK on this machine. */
const volatile __u32 unseen_vsock;

/* Peers are noted in thread_peers, not in peers. */
const volatile __u32 notes_by_thread;

static __always_inline bool is_active(void)
{
	return *(volatile __u32 *)&control.active == generation;
}

/* Counters are per CPU, but a tracepoint can be interrupted by a softirq that counts too. */
static __always_inline void add_counter(__u32 index, __u64 amount)
{
	__u64 *value = bpf_map_lookup_elem(&counters, &index);

	if (value)
		__sync_fetch_and_add(value, amount);
}

/* A store to a shared cache line for each call would cost more than all the rest: write only what changes. */
static __always_inline void raise(volatile __u32 *flag)
{
	if (!*flag)
		*flag = 1;
}

/* Of a record that is about to be copied into the ring; one that is reserved is in the fill already. */
static __always_inline __u64 wakeup_flag(__u64 record_bytes, bool is_reserved)
{
	__u64 fill = bpf_ringbuf_query(&records, BPF_RB_AVAIL_DATA);

	return wakeup_at(is_reserved ? fill : fill + record_bytes, control.wakeup_bytes,
			 record_bytes);
}

/* On slow paths only: nobody has drained for the linger time, so the programs stop until the next reader. */
static __always_inline bool is_abandoned(void)
{
	__u64 heartbeat = control.heartbeat_ns, linger = control.linger_ns;

	if (!is_active())
		return true;
	if (!linger || !heartbeat || bpf_ktime_get_ns() - heartbeat < linger)
		return false;
	control.active = 0;
	return true;
}

#endif
