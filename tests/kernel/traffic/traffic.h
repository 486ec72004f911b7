/* SPDX-License-Identifier: Apache-2.0 */
/* The traffic generator of the kernel tests: what its files share. */
#ifndef TRAFFIC_H
#define TRAFFIC_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>
#include <sys/types.h>

/* Exit status for what this kernel can't do; also what automake and meson take for a skip. */
#define EXIT_UNSUPPORTED 77

/* Protocol numbers that older C libraries don't name. */
#define PROTOCOL_MPTCP	 262
#define PROTOCOL_UDPLITE 136
#define PROTOCOL_SCTP	 132
/* RFC 3692: numbers for experiments, never assigned. */
#define PROTOCOL_EXPERIMENT  253
#define ETHERTYPE_EXPERIMENT 0x88b5

struct endpoint {
	struct sockaddr_storage address;
	socklen_t length; /* 0: none known */
};

/* options.c: the command line's key=value pairs. An unknown key or a bad number ends the program. */
void options_parse(int argc, char **argv);
bool option_given(const char *key);
const char *option_text(const char *key, const char *otherwise);
uint64_t option_number(const char *key, uint64_t otherwise);

/* report.c: what was moved, and one JSON object per line on stdout. */
void count_sent(ssize_t length, unsigned int calls, const struct endpoint *peer);
void count_received(ssize_t length, unsigned int calls, const struct endpoint *peer);
void count_peer_received(size_t length, const struct endpoint *peer);
void note(const char *name, uint64_t amount);
void report_scenario(const char *name);
void report_reset(void);
void report_ready(unsigned int port);
void report_ready_socket(int fd);
void report_totals(const char *event);
_Noreturn void fail(const char *what);
_Noreturn void fail_usage(const char *what, const char *which);
_Noreturn void unsupported(const char *what);
_Noreturn void fail_feature(const char *what);

/* control.c: what the test says through stdin, and the file limit. */
void control_keep_stdin(bool keep);
void wait_for_start(void);
void wait_for_close(void);
bool stdin_closed_within(int milliseconds);
bool readable_before_close(int fd);
void raise_file_limit(uint64_t files);
uint64_t now_ns(void);

/* address.c */
struct endpoint endpoint_parse(const char *host, unsigned int port);
struct endpoint endpoint_parse_pair(const char *text);
struct endpoint endpoint_of_peer(int fd);
struct endpoint endpoint_of_socket(int fd);
struct endpoint target(void);
struct endpoint bind_address(int family);
unsigned int endpoint_port(const struct endpoint *endpoint);
void endpoint_set_port(struct endpoint *endpoint, unsigned int port);
bool endpoint_equal(const struct endpoint *left, const struct endpoint *right);
const char *endpoint_host(const struct endpoint *endpoint, char *text, size_t size);
unsigned int interface_index(void);

/* uring.c: io_uring by raw system calls. */
struct ring {
	int fd;
	bool sqpoll;
	unsigned int sqe_flags, queued;
	unsigned int *sq_tail, *sq_mask, *sq_flags, *sq_array;
	unsigned int *cq_head, *cq_tail, *cq_mask;
	void *sqes, *cqes;
};

/* The fields of a submission queue entry, by the names of linux/io_uring.h's. */
struct ring_request {
	uint8_t opcode, sqe_flags;
	uint16_t ioprio, group;
	int fd, splice_from;
	uint64_t address, offset, tag;
	uint32_t length, flags;
};

void ring_open(struct ring *ring, bool sqpoll, bool async);
void ring_close(struct ring *ring);
void ring_need(const struct ring *ring, uint8_t opcode);
void ring_queue(struct ring *ring, const struct ring_request *request);
int ring_wait(struct ring *ring, unsigned int *flags, uint64_t *tag);
ssize_t ring_run(struct ring *ring, const struct ring_request *request);

/*
 * A way to move bytes over one socket, for one thread. 'move' returns what the kernel returned, and
 * leaves in 'calls' how many messages that was, in 'peer' where a datagram came from.
 */
struct way {
	int fd;
	const struct via *via;
	char *buffer;
	size_t size;
	unsigned int calls;
	bool connected, stream, armed;
	struct endpoint peer;
	int pipe[2];
	size_t piped;
	int file;
	void *mapping;
	struct ring ring;
};

struct via {
	const char *name;
	void (*open)(struct way *way);
	ssize_t (*move)(struct way *way, size_t length);
	void (*close)(struct way *way);
};

extern const struct via send_vias[], receive_vias[];
extern const struct via uring_send_vias[], uring_receive_vias[];
extern const struct via special_send_vias[], special_receive_vias[];

/* way.c */
void way_open_send(struct way *way, int fd, const struct endpoint *to, size_t size);
void way_open_receive(struct way *way, int fd, const char *name);
void way_close(struct way *way);
const char *receive_via_name(void);
const char *send_via_name(void);
void way_pipe(struct way *way);
size_t way_fill_pipe(struct way *way, size_t length);
void way_drain_pipe(struct way *way, size_t length);
ssize_t way_send(struct way *way, size_t length);
ssize_t way_receive(struct way *way, size_t length);

/* pump.c: moves whole amounts. */
enum mode {
	MODE_SINK,
	MODE_SOURCE,
	MODE_ECHO,
	MODE_PINGPONG
};
enum mode mode_option(enum mode otherwise);
void pump_stream(int fd, enum mode mode);
void pump_out(int fd, const struct endpoint *to, uint64_t bytes, uint64_t messages);
void pump_in(int fd, bool stream);

/* sockets.c */
int socket_open(int family, int type, int protocol);
void socket_set(int fd, int level, int name, int value, const char *what);
void socket_bind(int fd, const struct endpoint *to);
void socket_connect(int fd, const struct endpoint *to);
int socket_listen(int protocol);
int socket_accept(int listener);
int stream_connect(int protocol);
void ktls_start(int fd);
void receive_room(int fd);
void note_drops(int fd);

/* Scenarios. */
struct scenario {
	const char *name;
	void (*run)(int argument);
	int argument;
};

void run_stream_client(int protocol);
void run_stream_server(int protocol);
void run_stream_fd(int unused);
void run_udp_client(int protocol);
void run_udp_server(int protocol);
void run_udp_many(int unused);
void run_churn_client(int unused);
void run_churn_server(int unused);
void run_connect_fails(int error);
void run_accept_idle(int unused);
void run_fork(int unused);
void run_oneshot(int unused);
void run_idle(int unused);
void run_rename_argv(int unused);
void run_ping(int type);
void run_raw_client(int unused);
void run_raw_server(int unused);
void run_packet_send(int unused);
void run_packet_receive(int unused);
void run_packet_tx_ring(int unused);
void run_packet_rx_ring(int unused);
void run_xdp(int unused);
void run_pass_give(int unused);
void run_pass_take(int unused);
void run_inherit(int unused);
void run_inetd(int unused);
void run_many_client(int unused);
void run_many_server(int unused);
void run_errqueue(int unused);
void remember_argv(int argc, char **argv);

#endif
