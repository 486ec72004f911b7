// SPDX-License-Identifier: Apache-2.0
/* What the test says through stdin (a line: start; its end: stop), clocks and limits. */
#include "traffic.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

static bool stdin_is_ours = true;
static bool stdin_ended;

/* fd=0 (inetd): stdin is the connection and says nothing to us. */
void control_keep_stdin(bool keep)
{
	stdin_is_ours = keep;
}

/* Reads one byte; false at the end of stdin. */
static bool read_stdin(char *byte)
{
	ssize_t length;

	do {
		length = read(STDIN_FILENO, byte, 1);
	} while (length < 0 && errno == EINTR);
	if (length < 0)
		fail("read stdin");
	if (length == 0)
		stdin_ended = true;
	return length == 1;
}

/* start=stdin: one line before the first byte is moved, whichever connection that is on. */
void wait_for_start(void)
{
	static bool started;
	char byte = 0;

	if (started || !stdin_is_ours || strcmp(option_text("start", "now"), "stdin") != 0)
		return;
	started = true;
	while (byte != '\n')
		if (!read_stdin(&byte))
			return;
}

void wait_for_close(void)
{
	char byte;

	while (stdin_is_ours && !stdin_ended)
		read_stdin(&byte);
}

bool stdin_closed_within(int milliseconds)
{
	struct pollfd waiting = { .fd = STDIN_FILENO, .events = POLLIN };
	char byte;

	if (!stdin_is_ours || stdin_ended)
		return stdin_ended;
	if (poll(&waiting, 1, milliseconds) == 1)
		read_stdin(&byte);
	return stdin_ended;
}

/* Waits until a read would not block; false once stdin has ended and nothing is left to read. */
bool readable_before_close(int fd)
{
	struct pollfd waiting[2] = {
		{ .fd = fd, .events = POLLIN },
		{ .fd = STDIN_FILENO, .events = POLLIN },
	};
	char byte;

	for (;;) {
		bool listening = stdin_is_ours && !stdin_ended;
		int count = poll(waiting, listening ? 2 : 1, stdin_ended ? 0 : -1);

		if (count < 0 && errno != EINTR)
			fail("poll");
		if (count > 0 && waiting[0].revents)
			return true;
		if (count == 0)
			return false;
		if (count > 0 && listening && waiting[1].revents)
			read_stdin(&byte);
	}
}

void raise_file_limit(uint64_t files)
{
	struct rlimit limit;

	if (getrlimit(RLIMIT_NOFILE, &limit))
		fail("getrlimit");
	if (limit.rlim_cur >= files)
		return;
	limit.rlim_cur = files;
	if (limit.rlim_max < files)
		limit.rlim_max = files; /* takes CAP_SYS_RESOURCE */
	if (setrlimit(RLIMIT_NOFILE, &limit))
		fail("setrlimit RLIMIT_NOFILE");
}

uint64_t now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}
