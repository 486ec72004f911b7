// SPDX-License-Identifier: Apache-2.0
/* The plain ways to send and to receive. */
#include "traffic.h"

#include <errno.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

static size_t at_most(const struct way *way, size_t length)
{
	return length < way->size ? length : way->size;
}

static const struct sockaddr *destination(const struct way *way, socklen_t *length)
{
	*length = way->connected ? 0 : way->peer.length;
	return *length ? (const struct sockaddr *)&way->peer.address : NULL;
}

/* Two pieces, so that vectors are really used. */
static void two_pieces(struct iovec pieces[2], char *buffer, size_t length)
{
	pieces[0] = (struct iovec){ .iov_base = buffer, .iov_len = length / 2 };
	pieces[1] =
		(struct iovec){ .iov_base = buffer + length / 2, .iov_len = length - length / 2 };
}

static ssize_t by_write(struct way *way, size_t length)
{
	return write(way->fd, way->buffer, at_most(way, length));
}

static ssize_t by_writev(struct way *way, size_t length)
{
	struct iovec pieces[2];

	two_pieces(pieces, way->buffer, at_most(way, length));
	return writev(way->fd, pieces, 2);
}

/* send() where the socket is connected, sendto() where it isn't. */
static ssize_t by_sendto(struct way *way, size_t length)
{
	socklen_t name_length;
	const struct sockaddr *name = destination(way, &name_length);

	return sendto(way->fd, way->buffer, at_most(way, length), MSG_NOSIGNAL, name, name_length);
}

static ssize_t by_sendmsg(struct way *way, size_t length)
{
	socklen_t name_length;
	const struct sockaddr *name = destination(way, &name_length);
	struct iovec pieces[2];
	struct msghdr message = {
		.msg_name = (void *)name,
		.msg_namelen = name_length,
		.msg_iov = pieces,
		.msg_iovlen = 2,
	};

	two_pieces(pieces, way->buffer, at_most(way, length));
	return sendmsg(way->fd, &message, MSG_NOSIGNAL);
}

#define BATCH_MAX 64

static unsigned int batch_option(void)
{
	uint64_t batch = option_number("batch", 4);

	if (batch < 1 || batch > BATCH_MAX)
		fail_usage("out of range", "batch");
	return (unsigned int)batch;
}

/* Up to batch= messages of size= in one call; each is a call of its own to the kernel. */
static ssize_t by_sendmmsg(struct way *way, size_t length)
{
	struct mmsghdr messages[BATCH_MAX] = { 0 };
	struct iovec pieces[BATCH_MAX];
	unsigned int batch = batch_option(), count = 0;
	socklen_t name_length;
	const struct sockaddr *name = destination(way, &name_length);
	ssize_t total = 0;
	int sent;

	do {
		size_t part = at_most(way, length);

		pieces[count] = (struct iovec){ .iov_base = way->buffer, .iov_len = part };
		messages[count].msg_hdr.msg_name = (void *)name;
		messages[count].msg_hdr.msg_namelen = name_length;
		messages[count].msg_hdr.msg_iov = &pieces[count];
		messages[count].msg_hdr.msg_iovlen = 1;
		length -= part;
		count++;
	} while (length && count < batch);
	sent = sendmmsg(way->fd, messages, count, MSG_NOSIGNAL);
	if (sent < 0)
		return -1;
	for (int i = 0; i < sent; i++)
		total += messages[i].msg_len;
	way->calls = (unsigned int)sent;
	return total;
}

const struct via send_vias[] = {
	{ "write", NULL, by_write, NULL },
	{ "writev", NULL, by_writev, NULL },
	{ "send", NULL, by_sendto, NULL },
	{ "sendto", NULL, by_sendto, NULL },
	{ "sendmsg", NULL, by_sendmsg, NULL },
	{ "sendmmsg", NULL, by_sendmmsg, NULL },
	{ NULL, NULL, NULL, NULL },
};

static ssize_t by_read(struct way *way, size_t length)
{
	return read(way->fd, way->buffer, length);
}

static ssize_t by_readv(struct way *way, size_t length)
{
	struct iovec pieces[2];

	two_pieces(pieces, way->buffer, length);
	return readv(way->fd, pieces, 2);
}

static ssize_t by_recv(struct way *way, size_t length)
{
	return recv(way->fd, way->buffer, length, 0);
}

static ssize_t receive_from(struct way *way, size_t length, int flags)
{
	struct endpoint from = { .length = sizeof(from.address) };
	ssize_t received = recvfrom(way->fd, way->buffer, length, flags,
				    (struct sockaddr *)&from.address, &from.length);

	if (received >= 0 && !way->connected)
		way->peer = from;
	return received;
}

static ssize_t by_recvfrom(struct way *way, size_t length)
{
	return receive_from(way, length, 0);
}

static ssize_t by_recvmsg(struct way *way, size_t length)
{
	struct endpoint from = { 0 };
	struct iovec pieces[2];
	struct msghdr message = {
		.msg_name = &from.address,
		.msg_namelen = sizeof(from.address),
		.msg_iov = pieces,
		.msg_iovlen = 2,
	};
	ssize_t received;

	two_pieces(pieces, way->buffer, length);
	received = recvmsg(way->fd, &message, 0);
	from.length = message.msg_namelen;
	if (received >= 0 && !way->connected)
		way->peer = from;
	return received;
}

/* As many messages as are there, at most batch=; of unconnected sockets each with its peer. */
static ssize_t by_recvmmsg(struct way *way, size_t length)
{
	struct mmsghdr messages[BATCH_MAX] = { 0 };
	struct endpoint from[BATCH_MAX];
	struct iovec pieces[BATCH_MAX];
	unsigned int batch = batch_option();
	size_t part = length / batch;
	ssize_t total = 0;
	int received;

	if (!part)
		batch = 1;
	for (unsigned int i = 0; i < batch; i++) {
		pieces[i] = (struct iovec){ .iov_base = way->buffer + i * part,
					    .iov_len = part ? part : length };
		messages[i].msg_hdr.msg_name = way->connected ? NULL : &from[i].address;
		messages[i].msg_hdr.msg_namelen = way->connected ? 0 : sizeof(from[i].address);
		messages[i].msg_hdr.msg_iov = &pieces[i];
		messages[i].msg_hdr.msg_iovlen = 1;
	}
	received = recvmmsg(way->fd, messages, batch, MSG_WAITFORONE, NULL);
	if (received < 0)
		return -1;
	way->calls = 0;
	for (int i = 0; i < received; i++) {
		/* At the end of a stream messages are empty, and none. */
		if (way->stream && !messages[i].msg_len)
			continue;
		from[i].length = messages[i].msg_hdr.msg_namelen;
		total += messages[i].msg_len;
		way->calls++;
		if (!way->connected)
			count_peer_received(messages[i].msg_len, &from[i]);
	}
	return total;
}

/* Looks first, then takes: the look must not be counted. */
static ssize_t by_peek(struct way *way, size_t length)
{
	ssize_t peeked = receive_from(way, length, MSG_PEEK);

	if (peeked < 0)
		return -1;
	note("peeked", (uint64_t)peeked);
	return receive_from(way, length, 0);
}

/* Datagrams: the whole length, though the buffer is small. TCP: discards. */
static ssize_t by_trunc(struct way *way, size_t length)
{
	return receive_from(way, length, MSG_TRUNC);
}

static ssize_t by_waitall(struct way *way, size_t length)
{
	return receive_from(way, length, MSG_WAITALL);
}

const struct via receive_vias[] = {
	{ "read", NULL, by_read, NULL },       { "readv", NULL, by_readv, NULL },
	{ "recv", NULL, by_recv, NULL },       { "recvfrom", NULL, by_recvfrom, NULL },
	{ "recvmsg", NULL, by_recvmsg, NULL }, { "recvmmsg", NULL, by_recvmmsg, NULL },
	{ "peek", NULL, by_peek, NULL },       { "trunc", NULL, by_trunc, NULL },
	{ "waitall", NULL, by_waitall, NULL }, { NULL, NULL, NULL, NULL },
};
