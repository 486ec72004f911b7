// SPDX-License-Identifier: Apache-2.0
/* Connections: TCP, MPTCP, SCTP one-to-one, and any connected socket that was handed over. */
#include "traffic.h"

#include <linux/mptcp.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <unistd.h>

#ifndef SOL_MPTCP
#define SOL_MPTCP 284
#endif

/* tcpi_options: the SYN carried data and the peer took it (linux/tcp.h). */
#define SYN_DATA 32

static void note_syn_data(int fd)
{
	struct tcp_info info = { 0 };
	socklen_t length = sizeof(info);

	if (getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &length) == 0)
		note("syn_data", (info.tcpi_options & SYN_DATA) != 0);
}

/* 1 only if both ends really speak it: else it is plain TCP under another name. */
static void note_mptcp(int fd)
{
	struct mptcp_info info = { 0 };
	socklen_t length = sizeof(info);

	if (getsockopt(fd, SOL_MPTCP, MPTCP_INFO, &info, &length) == 0)
		note("mptcp", !(info.mptcpi_flags & MPTCP_INFO_FLAG_FALLBACK));
}

static void use_connection(int fd, enum mode mode)
{
	if (option_number("ktls", 0))
		ktls_start(fd);
	pump_stream(fd, mode);
	note_syn_data(fd);
	note_mptcp(fd);
}

/* One connection, or count= of them one after the other; the last stays open till the end. */
void run_stream_client(int protocol)
{
	uint64_t count = option_number("count", 1);

	for (uint64_t i = 0; i < count; i++) {
		int fd = stream_connect(protocol);

		if (i == 0)
			report_ready_socket(fd);
		use_connection(fd, mode_option(MODE_SOURCE));
		if (i + 1 < count)
			close(fd);
	}
	report_totals("done");
	if (option_number("hold", 0))
		wait_for_close();
}

/* count= connections one after the other (1); they stay open with hold=1. */
void run_stream_server(int protocol)
{
	uint64_t count = option_number("count", 1);
	int listener = socket_listen(protocol);

	for (uint64_t i = 0; i < count; i++) {
		int fd = socket_accept(listener);

		use_connection(fd, mode_option(MODE_SINK));
		if (!option_number("hold", 0))
			close(fd);
	}
	report_totals("done");
	if (option_number("hold", 0))
		wait_for_close();
}

/* fd=: what another program opened. */
void run_stream_fd(int unused)
{
	(void)unused;
	if (!option_given("fd"))
		fail_usage("needed", "fd");
	run_stream_client(IPPROTO_TCP);
}
