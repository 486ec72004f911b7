// SPDX-License-Identifier: Apache-2.0
/* Connections for their own sake: many short ones, ones that fail, ones that stay silent. */
#include "traffic.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <string.h>
#include <unistd.h>

static void close_by_reset(int fd)
{
	struct linger linger = { .l_onoff = 1, .l_linger = 0 };

	if (setsockopt(fd, SOL_SOCKET, SO_LINGER, &linger, sizeof(linger)))
		fail("SO_LINGER");
}

/* count= times: connect, send bytes= (none), close; with reset=1 by a RST: no TIME_WAIT. */
void run_churn_client(int unused)
{
	uint64_t count = option_number("count", 1), bytes = option_number("bytes", 0);
	struct endpoint to = target();
	struct way way;

	(void)unused;
	report_ready(0);
	wait_for_start();
	for (uint64_t i = 0; i < count; i++) {
		int fd = socket_open(to.address.ss_family, SOCK_STREAM, 0);
		uint64_t left = bytes;

		socket_connect(fd, &to);
		note("connected", 1);
		if (i == 0)
			way_open_send(&way, fd, NULL, 0);
		way.fd = fd;
		while (left)
			left -= (uint64_t)way_send(&way, left);
		if (option_number("reset", 0))
			close_by_reset(fd);
		close(fd);
	}
	report_totals("done");
	if (option_number("hold", 0))
		wait_for_close();
}

/* Accepts count= connections (0: until stdin closes), reads each to its end. */
void run_churn_server(int unused)
{
	uint64_t count = option_number("count", 0);
	int listener = socket_listen(IPPROTO_TCP);
	struct endpoint nobody = { 0 };
	bool opened = false;
	struct way way;

	(void)unused;
	for (uint64_t i = 0; count ? i < count : readable_before_close(listener); i++) {
		int fd = socket_accept(listener);
		ssize_t received;

		if (!opened)
			way_open_receive(&way, fd, receive_via_name());
		opened = true;
		way.fd = fd;
		while ((received = way_receive(&way, way.size)) > 0)
			count_received(received, way.calls, &nobody);
		if (received < 0)
			note("resets", 1);
		close(fd);
	}
	report_totals("done");
	if (option_number("hold", 0))
		wait_for_close();
}

/* Until the kernel gives up; with deadline_ms= the program does, by closing. */
static int connect_error(int fd, const struct endpoint *to)
{
	struct pollfd waiting = { .fd = fd, .events = POLLOUT };
	int deadline = (int)option_number("deadline_ms", 0), error = 0;
	socklen_t length = sizeof(error);

	if (!deadline)
		return connect(fd, (const struct sockaddr *)&to->address, to->length) ? errno : 0;
	if (connect(fd, (const struct sockaddr *)&to->address, to->length) == 0)
		return 0;
	if (errno != EINPROGRESS)
		return errno;
	if (poll(&waiting, 1, deadline) == 0)
		return ETIMEDOUT;
	if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &length))
		fail("SO_ERROR");
	return error;
}

static unsigned int closed_port(const struct endpoint *host)
{
	struct endpoint local = *host;
	int fd = socket_open(local.address.ss_family, SOCK_STREAM, 0);

	endpoint_set_port(&local, 0);
	socket_bind(fd, &local);
	local = endpoint_of_socket(fd);
	close(fd);
	return endpoint_port(&local);
}

/* count= connects to host= that must end in 'error' (0: no route of any kind). */
void run_connect_fails(int error)
{
	uint64_t count = option_number("count", 1);
	struct endpoint to = target();

	if (error == ECONNREFUSED && !endpoint_port(&to))
		endpoint_set_port(&to, closed_port(&to));
	report_ready(endpoint_port(&to));
	wait_for_start();
	for (uint64_t i = 0; i < count; i++) {
		int flags = option_number("deadline_ms", 0) ? SOCK_NONBLOCK : 0;
		int fd = socket_open(to.address.ss_family, SOCK_STREAM | flags, 0);
		int got;

		if (error == ETIMEDOUT)
			socket_set(fd, IPPROTO_TCP, TCP_SYNCNT, 1, "TCP_SYNCNT");
		got = connect_error(fd, &to);
		if (error ? got != error : got != EHOSTUNREACH && got != ENETUNREACH) {
			errno = got;
			fail("connect should have failed otherwise");
		}
		note("failed", 1);
		close(fd);
	}
	report_totals("done");
	if (option_number("hold", 0))
		wait_for_close();
}

/* Accepts count= connections and holds them, without a byte, until stdin closes. */
void run_accept_idle(int unused)
{
	uint64_t count = option_number("count", 1);
	int listener;

	(void)unused;
	raise_file_limit(count + 64);
	listener = socket_listen(IPPROTO_TCP);
	for (uint64_t i = 0; i < count; i++)
		socket_accept(listener);
	report_totals("done");
	wait_for_close();
}
