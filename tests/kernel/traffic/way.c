// SPDX-License-Identifier: Apache-2.0
/* Chooses a way to move bytes by its name, and counts what it moved. */
#include "traffic.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define RECEIVE_BUFFER	  65536
#define TRUNCATING_BUFFER 16

static const struct via *find(const struct via *table, const char *name)
{
	for (; table->name; table++)
		if (strcmp(table->name, name) == 0)
			return table;
	return NULL;
}

static const struct via *find_send(const char *name)
{
	const struct via *via = find(send_vias, name);

	via = via ? via : find(special_send_vias, name);
	return via ? via : find(uring_send_vias, name);
}

static const struct via *find_receive(const char *name)
{
	const struct via *via = find(receive_vias, name);

	via = via ? via : find(special_receive_vias, name);
	return via ? via : find(uring_receive_vias, name);
}

const char *send_via_name(void)
{
	return option_text("via", "send");
}

/* receive_via= where a program both sends and receives, else via=. */
const char *receive_via_name(void)
{
	const char *name = option_text("receive_via", option_text("via", "recv"));

	return find_receive(name) ? name : "recv";
}

static bool is_stream(int fd)
{
	int type;
	socklen_t length = sizeof(type);

	if (getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &length))
		fail("getsockopt SO_TYPE");
	return type == SOCK_STREAM;
}

static void way_init(struct way *way, int fd, size_t size)
{
	memset(way, 0, sizeof(*way));
	way->fd = fd;
	way->size = size;
	way->stream = is_stream(fd);
	way->pipe[0] = way->pipe[1] = way->file = way->ring.fd = -1;
	/* Page-aligned and never empty: what some ways need. */
	way->buffer =
		mmap(NULL, size + 1, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (way->buffer == MAP_FAILED)
		fail("mmap");
	for (size_t i = 0; i < size; i++)
		way->buffer[i] = (char)('a' + i % 26);
	way->peer = endpoint_of_peer(fd);
	way->connected = way->peer.length > 0;
}

/* 'to' names the peer of an unconnected socket, 'size' the most per call (0: size=). */
void way_open_send(struct way *way, int fd, const struct endpoint *to, size_t size)
{
	const struct via *via = find_send(send_via_name());

	if (!via)
		fail_usage("no such via= to send", send_via_name());
	if (!size)
		size = (size_t)option_number("size", is_stream(fd) ? 16384 : 1024);
	way_init(way, fd, size);
	way->via = via;
	if (to && !way->connected)
		way->peer = *to;
	if (via->open)
		via->open(way);
}

void way_open_receive(struct way *way, int fd, const char *name)
{
	const struct via *via = find_receive(name);
	bool truncating = strcmp(name, "trunc") == 0 && !is_stream(fd);
	size_t size = truncating ? TRUNCATING_BUFFER : RECEIVE_BUFFER;

	if (!via)
		fail_usage("no such via= to receive", name);
	way_init(way, fd, (size_t)option_number("buffer", size));
	way->via = via;
	if (via->open)
		via->open(way);
}

void way_close(struct way *way)
{
	if (way->via->close)
		way->via->close(way);
	munmap(way->buffer, way->size + 1);
	if (way->pipe[0] >= 0) {
		close(way->pipe[0]);
		close(way->pipe[1]);
	}
	if (way->file >= 0)
		close(way->file);
	if (way->ring.fd >= 0)
		ring_close(&way->ring);
}

void way_pipe(struct way *way)
{
	if (pipe2(way->pipe, O_CLOEXEC))
		fail("pipe");
}

/* One send of at most 'length' bytes: what the kernel says it took. */
ssize_t way_send(struct way *way, size_t length)
{
	ssize_t sent;

	do {
		way->calls = 1;
		sent = way->via->move(way, length);
	} while (sent < 0 && errno == EINTR);
	if (sent < 0)
		fail(way->via->name);
	count_sent(sent, way->calls, &way->peer);
	return sent;
}

/* One receive into at most 'length' bytes; -1 with errno ECONNRESET when the peer reset. */
ssize_t way_receive(struct way *way, size_t length)
{
	ssize_t received;

	if (!way->connected)
		way->peer.length = 0;
	do {
		way->calls = 1;
		received = way->via->move(way, length < way->size ? length : way->size);
	} while (received < 0 && errno == EINTR);
	if (received < 0 && errno != ECONNRESET)
		fail(way->via->name);
	return received;
}
