// SPDX-License-Identifier: Apache-2.0
/* What happens to the process: forks, short lives, false names. */
#include "traffic.h"

#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static char **program_argv;
static int program_argc;

void remember_argv(int argc, char **argv)
{
	program_argc = argc;
	program_argv = argv;
}

/* The parent connects; then parent and child send bytes= and child_bytes= on that socket. */
void run_fork(int unused)
{
	bool udp = strcmp(option_text("proto", "tcp"), "udp") == 0;
	struct endpoint to = target();
	int fd = socket_open(to.address.ss_family, udp ? SOCK_DGRAM : SOCK_STREAM, 0), status;
	pid_t child;

	(void)unused;
	socket_connect(fd, &to);
	note("connected", 1);
	report_ready_socket(fd);
	wait_for_start();
	child = fork();
	if (child < 0)
		fail("fork");
	if (child == 0) {
		report_reset();
		pump_out(fd, NULL, option_number("child_bytes", 0), 0);
		report_totals("done");
		exit(0);
	}
	pump_out(fd, NULL, option_number("bytes", 0), 0);
	if (waitpid(child, &status, 0) != child || status)
		fail("the child failed");
	report_totals("done");
	if (option_number("hold", 0))
		wait_for_close();
}

/* One datagram of bytes= to host= and port=, and the end: what a short-lived program does. */
static void send_one(void)
{
	struct endpoint to = target();
	int fd = socket_open(to.address.ss_family, SOCK_DGRAM, 0);
	struct way way;

	way_open_send(&way, fd, &to, (size_t)option_number("bytes", 0));
	way_send(&way, (size_t)option_number("bytes", 0));
	report_totals("done");
}

static void unlink_own_file(void)
{
	char path[4096];
	ssize_t length = readlink("/proc/self/exe", path, sizeof(path) - 1);

	if (length < 0)
		fail("readlink /proc/self/exe");
	path[length] = '\0';
	if (unlink(path))
		fail("unlink");
}

/* unlink=1: its file is gone before its first socket call. */
void run_oneshot(int unused)
{
	(void)unused;
	if (option_number("unlink", 0))
		unlink_own_file();
	if (strcmp(option_text("start", "now"), "stdin") == 0)
		report_ready(0);
	wait_for_start();
	send_one();
}

/* Never touches the network. */
void run_idle(int unused)
{
	(void)unused;
	report_ready(0);
	wait_for_close();
	report_totals("done");
}

/* Overwrites its whole command line, then sends one datagram. */
void run_rename_argv(int unused)
{
	(void)unused;
	for (int i = 0; i < program_argc; i++)
		memset(program_argv[i], i ? 'x' : '/', strlen(program_argv[i]));
	report_ready(0);
	wait_for_start();
	send_one();
	if (option_number("hold", 0))
		wait_for_close();
}
