// SPDX-License-Identifier: Apache-2.0
/* Connections that change hands: over a UNIX socket, through exec, from an inetd. */
#include "traffic.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#define ARGUMENTS_MAX 32

static struct sockaddr_un unix_address(void)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	const char *path = option_text("path", "");

	if (!*path || strlen(path) >= sizeof(address.sun_path))
		fail_usage("needed, and short", "path");
	strcpy(address.sun_path, path);
	return address;
}

static int open_connection(void)
{
	if (strcmp(option_text("proto", "tcp"), "udp") == 0) {
		struct endpoint to = target();
		int fd = socket_open(to.address.ss_family, SOCK_DGRAM, 0);

		socket_connect(fd, &to);
		return fd;
	}
	return stream_connect(0);
}

/* Room for one descriptor, aligned as a header. */
union control {
	struct cmsghdr header;
	char space[CMSG_SPACE(sizeof(int))];
};

static void give(int channel, int fd)
{
	char byte = 0;
	struct iovec piece = { .iov_base = &byte, .iov_len = 1 };
	union control control = { 0 };
	struct msghdr message = {
		.msg_iov = &piece,
		.msg_iovlen = 1,
		.msg_control = &control,
		.msg_controllen = sizeof(control),
	};

	control.header.cmsg_level = SOL_SOCKET;
	control.header.cmsg_type = SCM_RIGHTS;
	control.header.cmsg_len = CMSG_LEN(sizeof(fd));
	memcpy(CMSG_DATA(&control.header), &fd, sizeof(fd));
	if (sendmsg(channel, &message, MSG_NOSIGNAL) != 1)
		fail("sendmsg SCM_RIGHTS");
}

static int take(int channel)
{
	char byte;
	struct iovec piece = { .iov_base = &byte, .iov_len = 1 };
	union control control = { 0 };
	struct msghdr message = {
		.msg_iov = &piece,
		.msg_iovlen = 1,
		.msg_control = &control,
		.msg_controllen = sizeof(control),
	};
	int fd;

	if (recvmsg(channel, &message, MSG_CMSG_CLOEXEC) != 1 ||
	    control.header.cmsg_type != SCM_RIGHTS)
		fail("recvmsg SCM_RIGHTS");
	memcpy(&fd, CMSG_DATA(&control.header), sizeof(fd));
	return fd;
}

/* Connects, moves its own bytes, then hands the connection to whoever listens at path=. */
void run_pass_give(int unused)
{
	struct sockaddr_un address = unix_address();
	int channel = socket(AF_UNIX, SOCK_STREAM, 0), fd = open_connection();

	(void)unused;
	if (channel < 0 || connect(channel, (struct sockaddr *)&address, sizeof(address)))
		fail("connect to path=");
	report_ready_socket(fd);
	pump_stream(fd, mode_option(MODE_SOURCE));
	give(channel, fd);
	report_totals("done");
	if (option_number("hold", 0))
		wait_for_close();
}

/* Listens at path= for one connection and goes on with it, by its own mode=. */
void run_pass_take(int unused)
{
	struct sockaddr_un address = unix_address();
	int listener = socket(AF_UNIX, SOCK_STREAM, 0), channel, fd;

	(void)unused;
	if (listener < 0 || bind(listener, (struct sockaddr *)&address, sizeof(address)) ||
	    listen(listener, 1))
		fail("listen at path=");
	report_ready(0);
	channel = accept(listener, NULL, NULL);
	if (channel < 0)
		fail("accept");
	fd = take(channel);
	pump_stream(fd, mode_option(MODE_SOURCE));
	report_totals("done");
	if (option_number("hold", 0))
		wait_for_close();
}

/* exec= with next="SCENARIO key=value ..." and fd= added. */
static _Noreturn void become(int fd)
{
	char *arguments[ARGUMENTS_MAX + 3] = { (char *)option_text("exec", NULL) };
	char *words = strdup(option_text("next", "stream")), *rest = NULL, number[32];
	int count = 1;

	for (char *word = strtok_r(words, " ", &rest); word && count < ARGUMENTS_MAX;
	     word = strtok_r(NULL, " ", &rest))
		arguments[count++] = word;
	snprintf(number, sizeof(number), "fd=%d", fd);
	arguments[count] = number;
	fcntl(fd, F_SETFD, 0);
	execv(arguments[0], arguments);
	fail("exec");
}

/* Connects, moves its own bytes, then becomes another program that goes on with the socket. */
void run_inherit(int unused)
{
	int fd;

	(void)unused;
	if (!option_given("exec"))
		fail_usage("needed", "exec");
	fd = open_connection();
	report_ready_socket(fd);
	pump_stream(fd, mode_option(MODE_SOURCE));
	report_totals("handed");
	become(fd);
}

/* For each of count= accepted connections a child that becomes exec=, with it as fd 0. */
void run_inetd(int unused)
{
	uint64_t count = option_number("count", 1);
	int listener, status;

	(void)unused;
	if (!option_given("exec"))
		fail_usage("needed", "exec");
	listener = socket_listen(0);
	fcntl(listener, F_SETFD, FD_CLOEXEC);
	for (uint64_t i = 0; i < count; i++) {
		int fd = socket_accept(listener);
		pid_t child = fork();

		if (child < 0)
			fail("fork");
		if (child == 0) {
			if (dup2(fd, STDIN_FILENO) < 0)
				fail("dup2");
			become(STDIN_FILENO);
		}
		close(fd);
	}
	for (uint64_t i = 0; i < count; i++) {
		if (wait(&status) < 0)
			fail("wait");
		if (WIFEXITED(status) && WEXITSTATUS(status) == EXIT_UNSUPPORTED)
			exit(EXIT_UNSUPPORTED);
		if (status)
			fail("a child failed");
	}
	report_totals("done");
	if (option_number("hold", 0))
		wait_for_close();
}
