// SPDX-License-Identifier: Apache-2.0
/* Ways around a plain copy: files, pipes, MSG_ZEROCOPY, Fast Open, mapped TCP receive. */
#include "traffic.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/errqueue.h>
#include <linux/tcp.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <unistd.h>

/* A pipe's usual capacity: what fits without a reader. */
#define PIPE_ROOM 65536
#define PAGE	  4096
/* Mapped at once by TCP_ZEROCOPY_RECEIVE. */
#define MAPPED (64 * PAGE)

static size_t at_most(size_t length, size_t limit)
{
	return length < limit ? length : limit;
}

static void open_sendfile(struct way *way)
{
	way->file = memfd_create("payload", MFD_CLOEXEC);
	if (way->file < 0)
		fail_feature("memfd_create");
	if (write(way->file, way->buffer, way->size) != (ssize_t)way->size)
		fail("write to the memfd");
}

static ssize_t by_sendfile(struct way *way, size_t length)
{
	off_t offset = 0;

	return sendfile(way->fd, way->file, &offset, at_most(length, way->size));
}

/* Pages that write() put into a pipe: what TCP_ZEROCOPY_RECEIVE can map at the other end. */
size_t way_fill_pipe(struct way *way, size_t length)
{
	ssize_t filled;

	if (way->piped)
		return way->piped;
	filled = write(way->pipe[1], way->buffer, at_most(at_most(length, way->size), PIPE_ROOM));
	if (filled <= 0)
		fail("write to the pipe");
	way->piped = (size_t)filled;
	return way->piped;
}

static ssize_t by_splice_out(struct way *way, size_t length)
{
	ssize_t sent = splice(way->pipe[0], NULL, way->fd, NULL, way_fill_pipe(way, length), 0);

	if (sent > 0)
		way->piped -= (size_t)sent;
	return sent;
}

void way_drain_pipe(struct way *way, size_t length)
{
	while (length) {
		ssize_t drained = read(way->pipe[0], way->buffer, at_most(length, way->size));

		if (drained <= 0)
			fail("read from the pipe");
		length -= (size_t)drained;
	}
}

static ssize_t by_splice_in(struct way *way, size_t length)
{
	ssize_t received = splice(way->fd, NULL, way->pipe[1], NULL, at_most(length, PIPE_ROOM), 0);

	if (received > 0)
		way_drain_pipe(way, (size_t)received);
	return received;
}

/* Of the socket, not of the thread: the error queue is shared. */
static atomic_long unfinished;

static void open_zerocopy(struct way *way)
{
	socket_set(way->fd, SOL_SOCKET, SO_ZEROCOPY, 1, "SO_ZEROCOPY");
}

static void read_completion(struct way *way)
{
	char control[256];
	struct msghdr message = { .msg_control = control, .msg_controllen = sizeof(control) };
	const struct cmsghdr *header;

	if (recvmsg(way->fd, &message, MSG_ERRQUEUE) < 0) {
		if (errno != EAGAIN)
			fail("recvmsg MSG_ERRQUEUE");
		return;
	}
	for (header = CMSG_FIRSTHDR(&message); header;
	     header = CMSG_NXTHDR(&message, (struct cmsghdr *)header)) {
		const struct sock_extended_err *error = (const void *)CMSG_DATA(header);
		long finished = (long)(error->ee_data - error->ee_info + 1);

		if (error->ee_origin != SO_EE_ORIGIN_ZEROCOPY)
			continue;
		atomic_fetch_sub(&unfinished, finished);
		note("zerocopy_completed", (uint64_t)finished);
	}
}

static void wait_for_completion(struct way *way)
{
	struct pollfd waiting = { .fd = way->fd };

	/* With a limit: another thread may have read the last one. */
	if (poll(&waiting, 1, 100) < 0 && errno != EINTR)
		fail("poll");
	if (waiting.revents & POLLERR)
		read_completion(way);
}

static ssize_t by_zerocopy(struct way *way, size_t length)
{
	bool named = !way->connected;
	const struct sockaddr *name = named ? (const struct sockaddr *)&way->peer.address : NULL;
	ssize_t sent;

	/* ENOBUFS: too many completions wait to be read. */
	while ((sent = sendto(way->fd, way->buffer, at_most(length, way->size),
			      MSG_ZEROCOPY | MSG_NOSIGNAL, name, named ? way->peer.length : 0)) <
		       0 &&
	       errno == ENOBUFS)
		wait_for_completion(way);
	if (sent > 0)
		atomic_fetch_add(&unfinished, 1);
	return sent;
}

static void close_zerocopy(struct way *way)
{
	while (atomic_load(&unfinished) > 0)
		wait_for_completion(way);
}

static void open_fastopen(struct way *way)
{
	if (!way->connected)
		way->peer = target();
}

/* The first send connects, with its bytes in the SYN. */
static ssize_t by_fastopen(struct way *way, size_t length)
{
	ssize_t sent;

	length = at_most(length, way->size);
	if (way->connected)
		return send(way->fd, way->buffer, length, MSG_NOSIGNAL);
	sent = sendto(way->fd, way->buffer, length, MSG_FASTOPEN | MSG_NOSIGNAL,
		      (const struct sockaddr *)&way->peer.address, way->peer.length);
	if (sent < 0 && errno == EOPNOTSUPP)
		unsupported("MSG_FASTOPEN (net.ipv4.tcp_fastopen)");
	way->connected = true;
	note("connected", 1);
	return sent;
}

/* Its setsockopt is in stream_connect(): connect() only takes a note, the first write connects. */
static ssize_t by_fastopen_connect(struct way *way, size_t length)
{
	return write(way->fd, way->buffer, at_most(length, way->size));
}

const struct via special_send_vias[] = {
	{ "sendfile", open_sendfile, by_sendfile, NULL },
	{ "splice", way_pipe, by_splice_out, NULL },
	{ "zerocopy", open_zerocopy, by_zerocopy, close_zerocopy },
	{ "fastopen", open_fastopen, by_fastopen, NULL },
	{ "fastopen-connect", open_fastopen, by_fastopen_connect, NULL },
	{ NULL, NULL, NULL, NULL },
};

static void open_mapped(struct way *way)
{
	way->mapping = mmap(NULL, MAPPED, PROT_READ, MAP_SHARED, way->fd, 0);
	if (way->mapping == MAP_FAILED)
		fail_feature("mmap of the socket");
}

static void close_mapped(struct way *way)
{
	munmap(way->mapping, MAPPED);
}

/*
 * Maps whole pages; the rest arrives in the copy buffer, or by recv() where the kernel says so
 * (recv_skip_hint). Whole pages come from a sender with via=splice and maxseg= of a page more 12
 * bytes (the timestamp option).
 */
static ssize_t by_tcp_zerocopy_receive(struct way *way, size_t length)
{
	struct tcp_zerocopy_receive request = {
		.address = (uintptr_t)way->mapping,
		.length = (uint32_t)(at_most(length, MAPPED) / PAGE * PAGE),
		.copybuf_address = (uintptr_t)way->buffer,
	};
	socklen_t size = sizeof(request);
	struct pollfd waiting = { .fd = way->fd, .events = POLLIN };
	size_t skip;

	request.copybuf_len = (int32_t)at_most(length - request.length, way->size);
	if (poll(&waiting, 1, -1) < 0)
		return -1;
	if (!request.length)
		return recv(way->fd, way->buffer, at_most(length, way->size), 0);
	if (getsockopt(way->fd, IPPROTO_TCP, TCP_ZEROCOPY_RECEIVE, &request, &size)) {
		if (errno == EIO || errno == EINVAL) /* the end of the stream */
			return recv(way->fd, way->buffer, at_most(length, way->size), 0);
		fail_feature("TCP_ZEROCOPY_RECEIVE");
	}
	note("mapped", request.length);
	if (request.copybuf_len > 0)
		note("copied", (uint64_t)request.copybuf_len);
	if (request.length || request.copybuf_len > 0)
		return (ssize_t)request.length + request.copybuf_len;
	skip = request.recv_skip_hint ? request.recv_skip_hint : way->size;
	return recv(way->fd, way->buffer, at_most(at_most(length, skip), way->size), 0);
}

const struct via special_receive_vias[] = {
	{ "splice", way_pipe, by_splice_in, NULL },
	{ "tcp_zerocopy_receive", open_mapped, by_tcp_zerocopy_receive, close_mapped },
	{ NULL, NULL, NULL, NULL },
};
