// SPDX-License-Identifier: Apache-2.0
/* Every form in which io_uring moves bytes over a socket. */
#include "traffic.h"

#include <errno.h>
#include <linux/io_uring.h>
#include <string.h>
#include <sys/uio.h>

/* Offset of what has none: the file's own position. */
#define NO_OFFSET UINT64_MAX

#define BUFFERS 8
#define GROUP	1
enum tag {
	TAG_RECEIVE = 1,
	TAG_PROVIDE
};

static size_t at_most(size_t length, size_t limit)
{
	return length < limit ? length : limit;
}

static void open_plain(struct way *way)
{
	ring_open(&way->ring, false, false);
}

static void open_sqpoll(struct way *way)
{
	ring_open(&way->ring, true, false);
}

static void open_async(struct way *way)
{
	ring_open(&way->ring, false, true);
}

static void open_splice(struct way *way)
{
	way_pipe(way);
	ring_open(&way->ring, false, false);
	ring_need(&way->ring, IORING_OP_SPLICE);
}

static void open_send_zc(struct way *way)
{
	ring_open(&way->ring, false, false);
	ring_need(&way->ring, IORING_OP_SEND_ZC);
}

static ssize_t run_buffer(struct way *way, uint8_t opcode, size_t length)
{
	bool stays = opcode == IORING_OP_READ || opcode == IORING_OP_WRITE;
	struct ring_request request = {
		.opcode = opcode,
		.fd = way->fd,
		.address = (uintptr_t)way->buffer,
		.length = (uint32_t)at_most(length, way->size),
		.offset = stays ? NO_OFFSET : 0,
	};

	return ring_run(&way->ring, &request);
}

static ssize_t by_send(struct way *way, size_t length)
{
	return run_buffer(way, IORING_OP_SEND, length);
}

static ssize_t by_send_zc(struct way *way, size_t length)
{
	return run_buffer(way, IORING_OP_SEND_ZC, length);
}

static ssize_t by_write(struct way *way, size_t length)
{
	return run_buffer(way, IORING_OP_WRITE, length);
}

static ssize_t by_recv(struct way *way, size_t length)
{
	return run_buffer(way, IORING_OP_RECV, length);
}

static ssize_t by_read(struct way *way, size_t length)
{
	return run_buffer(way, IORING_OP_READ, length);
}

static ssize_t run_message(struct way *way, uint8_t opcode, size_t length)
{
	struct iovec piece = { .iov_base = way->buffer, .iov_len = at_most(length, way->size) };
	struct msghdr message = { .msg_iov = &piece, .msg_iovlen = 1 };
	struct ring_request request = {
		.opcode = opcode,
		.fd = way->fd,
		.address = (uintptr_t)&message,
		.length = 1,
	};
	ssize_t moved;

	if (!way->connected) {
		message.msg_name = &way->peer.address;
		message.msg_namelen =
			opcode == IORING_OP_SENDMSG ? way->peer.length : sizeof(way->peer.address);
	}
	moved = ring_run(&way->ring, &request);
	if (!way->connected)
		way->peer.length = message.msg_namelen;
	return moved;
}

static ssize_t by_sendmsg(struct way *way, size_t length)
{
	return run_message(way, IORING_OP_SENDMSG, length);
}

static ssize_t by_recvmsg(struct way *way, size_t length)
{
	return run_message(way, IORING_OP_RECVMSG, length);
}

static ssize_t run_splice(struct way *way, int from, int to, size_t length)
{
	struct ring_request request = {
		.opcode = IORING_OP_SPLICE,
		.fd = to,
		.address = NO_OFFSET, /* of 'from' */
		.length = (uint32_t)length,
		.offset = NO_OFFSET,
		.splice_from = from,
	};

	return ring_run(&way->ring, &request);
}

static ssize_t by_splice_out(struct way *way, size_t length)
{
	ssize_t sent = run_splice(way, way->pipe[0], way->fd, way_fill_pipe(way, length));

	if (sent > 0)
		way->piped -= (size_t)sent;
	return sent;
}

static ssize_t by_splice_in(struct way *way, size_t length)
{
	ssize_t received = run_splice(way, way->fd, way->pipe[1], at_most(length, way->size));

	if (received > 0)
		way_drain_pipe(way, (size_t)received);
	return received;
}

const struct via uring_send_vias[] = {
	{ "io_uring-send", open_plain, by_send, NULL },
	{ "io_uring-write", open_plain, by_write, NULL },
	{ "io_uring-sendmsg", open_plain, by_sendmsg, NULL },
	{ "io_uring-send-zc", open_send_zc, by_send_zc, NULL },
	{ "io_uring-sqpoll", open_sqpoll, by_send, NULL },
	{ "io_uring-async", open_async, by_send, NULL },
	{ "io_uring-splice", open_splice, by_splice_out, NULL },
	{ NULL, NULL, NULL, NULL },
};

static void provide_buffers(struct way *way, unsigned int first, unsigned int count)
{
	size_t part = way->size / BUFFERS;
	struct ring_request request = {
		.opcode = IORING_OP_PROVIDE_BUFFERS,
		.fd = (int)count,
		.address = (uintptr_t)(way->buffer + first * part),
		.length = (uint32_t)part,
		.offset = first,
		.group = GROUP,
		.tag = TAG_PROVIDE,
	};

	ring_queue(&way->ring, &request);
}

static void open_multishot(struct way *way)
{
	ring_open(&way->ring, false, false);
	/* Multishot receive has no probe of its own: it came with SEND_ZC, in 6.0. */
	ring_need(&way->ring, IORING_OP_SEND_ZC);
	provide_buffers(way, 0, BUFFERS);
}

/* One request, a completion for every arrival; it ends by itself when the buffers run out. */
static ssize_t by_multishot(struct way *way, size_t length)
{
	struct ring_request request = {
		.opcode = IORING_OP_RECV,
		.fd = way->fd,
		.ioprio = IORING_RECV_MULTISHOT,
		.sqe_flags = IOSQE_BUFFER_SELECT,
		.group = GROUP,
		.tag = TAG_RECEIVE,
	};

	(void)length;
	for (;;) {
		unsigned int flags;
		uint64_t tag;
		int result;

		if (!way->armed)
			ring_queue(&way->ring, &request);
		way->armed = true;
		result = ring_wait(&way->ring, &flags, &tag);
		if (tag == TAG_PROVIDE) {
			if (result < 0)
				fail("IORING_OP_PROVIDE_BUFFERS");
			continue;
		}
		way->armed = (flags & IORING_CQE_F_MORE) != 0;
		if (flags & IORING_CQE_F_BUFFER)
			provide_buffers(way, flags >> IORING_CQE_BUFFER_SHIFT, 1);
		if (result >= 0)
			return result;
		if (result != -ENOBUFS) {
			errno = -result;
			return -1;
		}
	}
}

const struct via uring_receive_vias[] = {
	{ "io_uring-recv", open_plain, by_recv, NULL },
	{ "io_uring-read", open_plain, by_read, NULL },
	{ "io_uring-recvmsg", open_plain, by_recvmsg, NULL },
	{ "io_uring-multishot", open_multishot, by_multishot, NULL },
	{ "io_uring-sqpoll", open_sqpoll, by_recv, NULL },
	{ "io_uring-async", open_async, by_recv, NULL },
	{ "io_uring-splice", open_splice, by_splice_in, NULL },
	{ NULL, NULL, NULL, NULL },
};
