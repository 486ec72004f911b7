// SPDX-License-Identifier: Apache-2.0
/* Thousands of sockets in one process, idle or busy. */
#include "traffic.h"

#include <errno.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

/* Beside the sockets: stdio, the listener, epoll, a pipe. */
#define OTHER_FILES 64
#define EVENTS	    256
#define BUFFER	    65536
#define SECOND_NS   1000000000u

static char buffer[BUFFER];

static size_t size_option(void)
{
	uint64_t size = option_number("size", 1);

	if (size > BUFFER)
		fail_usage("out of range", "size");
	return (size_t)size;
}

static void send_all(int fd, size_t length)
{
	while (length) {
		ssize_t sent = send(fd, buffer, length, MSG_NOSIGNAL);

		if (sent < 0)
			fail("send");
		count_sent(sent, 1, NULL);
		length -= (size_t)sent;
	}
}

/* busy=1: size= bytes on every socket in every second, until stdin closes. */
static void keep_busy(const int *sockets, uint64_t count, size_t size)
{
	uint64_t next = now_ns() + SECOND_NS;

	for (;;) {
		uint64_t now = now_ns();
		int left = now < next ? (int)((next - now) / 1000000u) : 0;

		if (stdin_closed_within(left))
			return;
		if (now_ns() < next)
			continue;
		next += SECOND_NS;
		for (uint64_t i = 0; i < count; i++)
			send_all(sockets[i], size);
		note("rounds", 1);
	}
}

/* count= connections (proto=udp: connected sockets) and size= bytes on each. */
void run_many_client(int unused)
{
	bool udp = strcmp(option_text("proto", "tcp"), "udp") == 0;
	uint64_t count = option_number("count", 10000);
	struct endpoint to = target();
	size_t size = size_option();
	int *sockets;

	(void)unused;
	raise_file_limit(count + OTHER_FILES);
	sockets = calloc(count, sizeof(*sockets));
	if (!sockets)
		fail("calloc");
	for (uint64_t i = 0; i < count; i++) {
		sockets[i] = socket_open(to.address.ss_family, udp ? SOCK_DGRAM : SOCK_STREAM, 0);
		socket_connect(sockets[i], &to);
	}
	note("connected", count);
	report_ready(0);
	wait_for_start();
	for (uint64_t i = 0; i < count; i++)
		send_all(sockets[i], size);
	if (option_number("busy", 0))
		keep_busy(sockets, count, size);
	report_totals("done");
	if (option_number("hold", 0))
		wait_for_close();
}

static void watch(int poller, int fd)
{
	struct epoll_event event = { .events = EPOLLIN, .data.fd = fd };

	if (epoll_ctl(poller, EPOLL_CTL_ADD, fd, &event))
		fail("epoll_ctl");
}

/* Until all count= connections were accepted and have ended, or expect= bytes are there. */
void run_many_server(int unused)
{
	uint64_t count = option_number("count", 10000), expect = option_number("expect", 0);
	uint64_t accepted = 0, ended = 0, got = 0;
	struct epoll_event events[EVENTS];
	int poller, listener;

	(void)unused;
	raise_file_limit(count + OTHER_FILES);
	poller = epoll_create1(EPOLL_CLOEXEC);
	if (poller < 0)
		fail("epoll_create1");
	listener = socket_listen(IPPROTO_TCP);
	watch(poller, listener);
	while (ended < count && (!expect || got < expect || accepted < count)) {
		int ready = epoll_wait(poller, events, EVENTS, -1);

		if (ready < 0 && errno != EINTR)
			fail("epoll_wait");
		for (int i = 0; i < ready; i++) {
			int fd = events[i].data.fd;
			ssize_t received;

			if (fd == listener) {
				watch(poller, socket_accept(listener));
				accepted++;
				continue;
			}
			received = recv(fd, buffer, sizeof(buffer), 0);
			if (received > 0) {
				count_received(received, 1, NULL);
				got += (uint64_t)received;
				continue;
			}
			if (received < 0)
				note("resets", 1);
			close(fd);
			ended++;
		}
	}
	report_totals("done");
	if (option_number("hold", 0))
		wait_for_close();
}
