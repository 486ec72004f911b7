// SPDX-License-Identifier: Apache-2.0
/* Moves whole amounts: a source, a sink, an echo, or a source that reads the echo. */
#include "traffic.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#define THREADS_MAX 64

struct share {
	int fd;
	const struct endpoint *to;
	uint64_t bytes, messages;
};

enum mode mode_option(enum mode otherwise)
{
	static const char *const names[] = { "sink", "source", "echo", "pingpong" };
	const char *mode = option_text("mode", names[otherwise]);

	for (int i = 0; i < 4; i++)
		if (strcmp(mode, names[i]) == 0)
			return (enum mode)i;
	fail_usage("no such mode", mode);
}

/* 'messages' counts calls instead of bytes: the only way to send empty datagrams. */
static void *send_share(void *argument)
{
	const struct share *share = argument;
	uint64_t bytes = share->bytes, messages = share->messages;
	struct way way;

	way_open_send(&way, share->fd, share->to, 0);
	while (bytes || messages) {
		bool counted = messages > 0;
		ssize_t sent = way_send(&way, counted || bytes > SIZE_MAX ? way.size : bytes);

		if (counted)
			messages--;
		else
			bytes -= (uint64_t)sent;
	}
	way_close(&way);
	return NULL;
}

/* threads= share the amount evenly, on the one socket; the first takes what is left over. */
void pump_out(int fd, const struct endpoint *to, uint64_t bytes, uint64_t messages)
{
	uint64_t threads = option_number("threads", 1);
	struct share shares[THREADS_MAX];
	pthread_t ids[THREADS_MAX];

	if (threads < 1 || threads > THREADS_MAX)
		fail_usage("out of range", "threads");
	wait_for_start();
	for (uint64_t i = 0; i < threads; i++) {
		shares[i] = (struct share){
			.fd = fd,
			.to = to,
			.bytes = bytes / threads + (i ? 0 : bytes % threads),
			.messages = messages / threads + (i ? 0 : messages % threads),
		};
		if (i && pthread_create(&ids[i], NULL, send_share, &shares[i]))
			fail("pthread_create");
	}
	send_share(&shares[0]);
	for (uint64_t i = 1; i < threads; i++)
		pthread_join(ids[i], NULL);
}

/*
 * Until the end of the stream, or expect= bytes. Datagram sockets have no end: without expect=
 * (or count= messages) they stop when stdin closes, after what is queued.
 */
void pump_in(int fd, bool stream)
{
	uint64_t expect = option_number("expect", 0), count = 0, got = 0, messages = 0;
	bool bounded;
	struct way way;

	if (!stream)
		count = option_number("count", 0);
	bounded = stream || expect || count;
	wait_for_start();
	way_open_receive(&way, fd, receive_via_name());
	while ((!expect || got < expect) && (!count || messages < count)) {
		uint64_t left = stream && expect ? expect - got : UINT64_MAX;
		ssize_t received;

		if (!bounded && !readable_before_close(fd))
			break;
		received = way_receive(&way, left > SIZE_MAX ? SIZE_MAX : left);
		if (received < 0) {
			if (!option_number("reset", 0))
				fail(way.via->name);
			note("resets", 1);
			break;
		}
		if (stream && received == 0)
			break;
		count_received(received, way.calls, &way.peer);
		got += (uint64_t)received;
		messages += way.calls;
	}
	way_close(&way);
}

static void send_exactly(struct way *way, uint64_t length)
{
	while (length)
		length -= (uint64_t)way_send(way, length);
}

/* Answers every read with as much; the way that sends may cut it into several calls. */
static void echo_stream(int fd)
{
	uint64_t expect = option_number("expect", UINT64_MAX), got = 0;
	struct way in, out;

	way_open_receive(&in, fd, option_text("receive_via", "recv"));
	way_open_send(&out, fd, NULL, 0);
	wait_for_start();
	while (got < expect) {
		ssize_t received = way_receive(&in, in.size);

		if (received < 0)
			fail("receive");
		if (received == 0)
			break;
		count_received(received, in.calls, &in.peer);
		got += (uint64_t)received;
		send_exactly(&out, (uint64_t)received);
	}
	way_close(&in);
	way_close(&out);
}

/* Sends size= bytes, reads them back, and so on: never more in flight than the buffers hold. */
static void pingpong_stream(int fd)
{
	uint64_t left = option_number("bytes", 0);
	struct way in, out;

	way_open_receive(&in, fd, option_text("receive_via", "recv"));
	way_open_send(&out, fd, NULL, 0);
	wait_for_start();
	while (left) {
		uint64_t chunk = left < out.size ? left : out.size;

		left -= chunk;
		send_exactly(&out, chunk);
		while (chunk) {
			ssize_t received = way_receive(&in, chunk);

			if (received <= 0)
				fail("the echo ended early");
			count_received(received, in.calls, &in.peer);
			chunk -= (uint64_t)received;
		}
	}
	way_close(&in);
	way_close(&out);
}

void pump_stream(int fd, enum mode mode)
{
	switch (mode) {
	case MODE_SINK:
		pump_in(fd, true);
		break;
	case MODE_SOURCE:
		pump_out(fd, NULL, option_number("bytes", 0), 0);
		break;
	case MODE_ECHO:
		echo_stream(fd);
		break;
	case MODE_PINGPONG:
		pingpong_stream(fd);
		break;
	}
}
