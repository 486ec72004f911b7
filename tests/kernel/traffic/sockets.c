// SPDX-License-Identifier: Apache-2.0
/* Opening, binding, connecting. */
#include "traffic.h"

#include <errno.h>
#include <linux/sock_diag.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <string.h>
#include <unistd.h>

/* Enough for what a test sends before its sink reads; needs CAP_NET_ADMIN above rmem_max. */
#define RECEIVE_ROOM (64 << 20)
#define BACKLOG	     4096

int socket_open(int family, int type, int protocol)
{
	int fd = socket(family, type, protocol);

	if (fd < 0)
		fail_feature("socket");
	return fd;
}

void socket_set(int fd, int level, int name, int value, const char *what)
{
	if (setsockopt(fd, level, name, &value, sizeof(value)))
		fail_feature(what);
}

void socket_bind(int fd, const struct endpoint *to)
{
	if (bind(fd, (const struct sockaddr *)&to->address, to->length))
		fail("bind");
}

void socket_connect(int fd, const struct endpoint *to)
{
	if (connect(fd, (const struct sockaddr *)&to->address, to->length))
		fail("connect");
}

/* A full buffer would drop datagrams, and the sink would wait for them for ever. */
void receive_room(int fd)
{
	int room = (int)option_number("room", RECEIVE_ROOM);

	if (setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &room, sizeof(room)))
		socket_set(fd, SOL_SOCKET, SO_RCVBUF, room, "SO_RCVBUF");
}

void note_drops(int fd)
{
	uint32_t memory[SK_MEMINFO_VARS] = { 0 };
	socklen_t length = sizeof(memory);

	if (getsockopt(fd, SOL_SOCKET, SO_MEMINFO, memory, &length) == 0)
		note("drops", memory[SK_MEMINFO_DROPS]);
}

static void set_segment_size(int fd)
{
	if (option_given("maxseg"))
		socket_set(fd, IPPROTO_TCP, TCP_MAXSEG, (int)option_number("maxseg", 0),
			   "TCP_MAXSEG");
}

/* Bound to bind= (loopback unless given) and port= (any free one unless given); says ready. */
int socket_listen(int protocol)
{
	struct endpoint local = endpoint_parse(option_text("bind", "127.0.0.1"),
					       (unsigned int)option_number("port", 0));
	int fd = socket_open(local.address.ss_family, SOCK_STREAM, protocol);

	socket_set(fd, SOL_SOCKET, SO_REUSEADDR, 1, "SO_REUSEADDR");
	if (local.address.ss_family == AF_INET6)
		socket_set(fd, IPPROTO_IPV6, IPV6_V6ONLY, 0, "IPV6_V6ONLY");
	set_segment_size(fd);
	if (strncmp(send_via_name(), "fastopen", 8) == 0) {
		socket_set(fd, IPPROTO_TCP, TCP_FASTOPEN, BACKLOG, "TCP_FASTOPEN");
		socket_set(fd, IPPROTO_TCP, TCP_FASTOPEN_NO_COOKIE, 1, "TCP_FASTOPEN_NO_COOKIE");
	}
	socket_bind(fd, &local);
	if (listen(fd, BACKLOG))
		fail("listen");
	report_ready_socket(fd);
	return fd;
}

int socket_accept(int listener)
{
	int fd;

	do {
		fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
	} while (fd < 0 && (errno == EINTR || errno == ECONNABORTED));
	if (fd < 0)
		fail("accept");
	note("accepted", 1);
	return fd;
}

/* Connected to host= and port=, from bind= if given; fd= instead takes what was inherited. */
int stream_connect(int protocol)
{
	struct endpoint to = target();
	int fd;

	if (option_given("fd"))
		return (int)option_number("fd", 0);
	fd = socket_open(to.address.ss_family, SOCK_STREAM, protocol);
	if (option_given("bind")) {
		struct endpoint from = bind_address(to.address.ss_family);

		socket_bind(fd, &from);
	}
	set_segment_size(fd);
	if (strncmp(send_via_name(), "fastopen", 8) == 0) {
		socket_set(fd, IPPROTO_TCP, TCP_FASTOPEN_NO_COOKIE, 1, "TCP_FASTOPEN_NO_COOKIE");
		if (strcmp(send_via_name(), "fastopen") == 0)
			return fd; /* its first send connects */
		socket_set(fd, IPPROTO_TCP, TCP_FASTOPEN_CONNECT, 1, "TCP_FASTOPEN_CONNECT");
	}
	socket_connect(fd, &to);
	note("connected", 1);
	return fd;
}
