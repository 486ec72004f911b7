/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * The records that the BPF programs write into the ring buffer, and the block they share with user space. They
 * stand here once for C and once in exporter/picosnitch_exporter/wire.py for Python; a test compares the two by
 * the BTF of the built object. Every field is naturally aligned and padding is spelled out, so that no byte of
 * kernel stack leaves uninitialised.
 *
 * Raise PICOSNITCH_WIRE_VERSION with every change of a layout or of the meaning of a field: pinned maps of
 * another version are drained by the code that knows them or given up with the loss counted.
 */
#ifndef PICOSNITCH_H
#define PICOSNITCH_H

#define PICOSNITCH_WIRE_VERSION 3

/* /proc/PID/cmdline is longer now and then; what is cut is marked by PROCESS_CMDLINE_CUT. */
#define CMDLINE_BYTES 512
#define COMM_BYTES    16
/* Process, parent, grandparent. */
#define LINEAGE 3

enum record_kind {
	RECORD_FLOW = 1,
	RECORD_PROCESS = 2,
	RECORD_DNS = 3,
	RECORD_UNSEEN = 4,
	RECORD_LOOKUP = 5,
};

enum flow_flags {
	FLOW_FINAL = 1, /* the socket was released: no further record of it but late differences */
	FLOW_PROVISIONAL =
		2, /* accepted, but not used by anybody yet: charged to the listener's owner */
	FLOW_SHARED = 4, /* not the socket's first user: inherited, passed on, or used after exec */
	FLOW_KERNEL = 8, /* a kernel thread's socket: no executable */
};

enum flow_direction {
	DIRECTION_UNKNOWN = 0,
	DIRECTION_OUTBOUND = 1,
	DIRECTION_INBOUND = 2,
};

enum process_flags {
	PROCESS_CMDLINE_CUT = 1, /* longer than CMDLINE_BYTES */
	PROCESS_CMDLINE_MISSING = 2, /* could not be read here: user space looks in /proc */
	PROCESS_CMDLINE_LATE =
		4, /* read at the first socket, not at exec: may have been overwritten */
	PROCESS_EXEC = 8, /* sent because of its exec, not because of a socket ('Every exe') */
	PROCESS_UNWATCHED = 16, /* its executable is on a filesystem that fanotify does not watch */
	PROCESS_KERNEL = 32, /* a kernel thread */
};

enum dns_flags {
	DNS_CUT = 1, /* longer than DNS_BYTES: the rest is missing */
};

/* What an executable is to the kernel: survives rename, unlink and chmod. Device is the superblock's, as the
 * kernel encodes it (major << 20 | minor). */
struct file_identity {
	__u64 inode;
	__u32 device;
	__u32 generation;
};

/* One image of one process: a pid is reused and an exec replaces the image, but not all three together. */
struct process_key {
	__u64 start_ns; /* start of the process, CLOCK_BOOTTIME */
	__u64 exec_id; /* task_struct.self_exec_id, which each exec raises by one: its lower 32 bits are enough */
	__u32 tgid;
	__u32 pad;
};

struct record_header {
	__u16 kind;
	__u16 flags;
	__u32 pad;
	__u64 time_ns; /* CLOCK_BOOTTIME */
};

/* What moved since the previous record of the same socket, owner and peer. Differences, not totals: each byte
 * is in exactly one record, so that the ring's position alone says what has been accounted. */
struct flow_record {
	struct record_header header;
	struct process_key owner;
	struct file_identity executable;
	__u64 cookie;
	__u64 transmit_bytes;
	__u64 receive_bytes;
	__u32 transmit_calls;
	__u32 receive_calls;
	__u32 connections;
	__u32 connect_failures;
	__u8 local_address[16]; /* IPv4 as ::ffff:a.b.c.d */
	__u8 remote_address[16];
	__u16 local_port; /* host byte order */
	__u16 remote_port;
	__u16 protocol; /* IPPROTO_*, 16 bits wide because of MPTCP; 0 for AF_PACKET and AF_VSOCK */
	__u8 family;
	__u8 direction;
	__u32 netns;
	__u32 uid;
};

/* One process of a lineage. Sent once per image, at its first socket or (with 'Every exe') at its exec. The
 * record ends after cmdline_bytes bytes of cmdline. */
struct process_record {
	struct record_header header;
	struct process_key key;
	struct process_key parent;
	struct file_identity executable;
	__u64 exec_ns; /* CLOCK_BOOTTIME of the exec; 0 where it was before the programs were attached */
	__u64 changed_ns; /* the executable's change time (Unix time) at the exec: says which content it had; or 0 */
	__u64 cgroup_id; /* in the v2 hierarchy */
	__u64 cgroup1_id; /* in the v1 hierarchy that the loader has chosen, 0 where there is none */
	__u32 uid;
	__u16 cmdline_bytes;
	__u8 generation; /* 0 the process itself, 1 its parent, 2 its grandparent */
	__u8 pad;
	char comm[COMM_BYTES];
	char cmdline[CMDLINE_BYTES];
};

#define DNS_BYTES 1232
/* A DNS answer as it arrived, from the UDP or TCP payload on. Ends after payload_bytes bytes of payload. */
struct dns_record {
	struct record_header header;
	__u64 cookie; /* the socket that receives it */
	__u32 netns;
	__u16 payload_bytes;
	__u16 protocol;
	__u8 payload[DNS_BYTES];
};

/* A socket whose bytes no hook can see (mapped packet rings, AF_XDP, a kernel thread's). */
struct unseen_record {
	struct record_header header;
	struct process_key owner;
	struct file_identity executable;
	__u32 family;
	__u32 netns;
};

#define LOOKUP_ADDRESSES  48 /* a list has each address once for each of three types of socket */
#define LOOKUP_NAME_BYTES 256
/* What getaddrinfo() has answered. */
struct lookup_record {
	struct record_header header;
	struct process_key owner;
	__u32 netns;
	__u16 address_count;
	__u16 name_bytes;
	__u8 addresses[LOOKUP_ADDRESSES][16];
	char name[LOOKUP_NAME_BYTES];
};

/* A cgroup that was made, by its number and hierarchy; taken out by user space. */
struct cgroup_key {
	__u64 cgroup_id;
	__u32 hierarchy; /* 0: v2 */
	__u32 pad;
};

#define CGROUP_PATH_BYTES 508 /* the outermost names count: what is longer is cut */
struct cgroup_path {
	__u32 bytes;
	char path[CGROUP_PATH_BYTES];
};

/* Indexes of the `counters` map: what was lost, and what was only late. All of them are monotonic. */
enum counter {
	COUNTER_LOST_TRANSMIT_BYTES, /* neither socket storage nor the flows map had room */
	COUNTER_LOST_RECEIVE_BYTES,
	COUNTER_LOST_FINAL_RECORDS, /* ring and fallback map both full when a socket was released */
	COUNTER_LOST_FINAL_TRANSMIT_BYTES,
	COUNTER_LOST_FINAL_RECEIVE_BYTES,
	COUNTER_FALLBACK_RECORDS, /* final records that took the way through the fallback map */
	COUNTER_STORAGE_FAILED, /* socket storage could not be had: counted in the flows map */
	COUNTER_FLOWS_FULL, /* datagram counted under its socket, without its peer */
	COUNTER_PROCESS_RECORDS_DELAYED, /* ring full: tried again with the next socket */
	COUNTER_LIVE_RECORDS_DELAYED, /* ring full while draining: tried again with the next drain */
	COUNTER_DNS_RECORDS_LOST,
	COUNTER_UNSEEN_RECORDS_LOST,
	COUNTER_CGROUPS_LOST, /* map full: user space looks for the cgroup where it is mounted */
	COUNTER_IDLED_CALLS, /* slow-path entries skipped because nobody has read for the linger time */
	COUNTER_MAX,
};

/* Shared with user space through the mapped .bss. Written by user space but for the dirty flags, and for active,
 * which the programs clear when nobody has drained for the linger time. */
struct control {
	__u64 heartbeat_ns; /* CLOCK_MONOTONIC of the last drain, so that a suspended machine is no abandoned one; 0: never idle */
	__u64 linger_ns; /* without a drain for so long, the programs idle; 0: never */
	__u32 every_exe;
	__u32 count_bytes;
	__u32 sockets_dirty; /* something to drain in socket storage */
	__u32 flows_dirty; /* something to drain or to expire in the flows map */
	__u32 fallback_dirty;
	__u32 flow_idle_rounds; /* expiring drains without traffic after which a flow is expired */
	__u32 active; /* generation of the programs that count; 0: none does */
	__u32 wakeup_bytes; /* fill of the ring from which a record wakes the reader */
	__u32 socket_entries; /* counted by the drains, from 0 in each */
	__u32 flow_entries;
	__u32 fallback_entries;
	__u32 expire_flows; /* this drain counts idle rounds: every few seconds, not each time */
	__u32 introduce_late; /* introduce_again speaks of those only that found the ring full */
	__u32 late_processes; /* there are some */
	__u32 flow_count; /* entries in the flows map */
	__u32 pad;
};

#define ASSERT_SIZE(type, bytes) _Static_assert(sizeof(struct type) == (bytes), #type)
ASSERT_SIZE(file_identity, 16);
ASSERT_SIZE(process_key, 24);
ASSERT_SIZE(record_header, 16);
ASSERT_SIZE(flow_record, 144);
ASSERT_SIZE(process_record, 136 + CMDLINE_BYTES);
ASSERT_SIZE(dns_record, 32 + DNS_BYTES);
ASSERT_SIZE(unseen_record, 64);
ASSERT_SIZE(lookup_record, 48 + LOOKUP_ADDRESSES * 16 + LOOKUP_NAME_BYTES);
ASSERT_SIZE(cgroup_key, 16);
ASSERT_SIZE(cgroup_path, 4 + CGROUP_PATH_BYTES);
ASSERT_SIZE(control, 80);

#endif
