// SPDX-License-Identifier: Apache-2.0
/*
 * traffic SCENARIO [key=value ...]: moves an exactly known number of bytes and says what it did.
 * The table of scenarios and options is in README.md.
 */
#include "traffic.h"

#include <errno.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>

static const struct scenario scenarios[] = {
	{ "tcp-client", run_stream_client, IPPROTO_TCP },
	{ "tcp-server", run_stream_server, IPPROTO_TCP },
	{ "mptcp-client", run_stream_client, PROTOCOL_MPTCP },
	{ "mptcp-server", run_stream_server, PROTOCOL_MPTCP },
	{ "sctp-client", run_stream_client, PROTOCOL_SCTP },
	{ "sctp-server", run_stream_server, PROTOCOL_SCTP },
	{ "stream", run_stream_fd, 0 },
	{ "udp-client", run_udp_client, IPPROTO_UDP },
	{ "udp-server", run_udp_server, IPPROTO_UDP },
	{ "udplite-client", run_udp_client, PROTOCOL_UDPLITE },
	{ "udplite-server", run_udp_server, PROTOCOL_UDPLITE },
	{ "udp-many", run_udp_many, 0 },
	{ "churn-client", run_churn_client, 0 },
	{ "churn-server", run_churn_server, 0 },
	{ "refused", run_connect_fails, ECONNREFUSED },
	{ "timeout", run_connect_fails, ETIMEDOUT },
	{ "unreachable", run_connect_fails, 0 },
	{ "accept-idle", run_accept_idle, 0 },
	{ "many-client", run_many_client, 0 },
	{ "many-server", run_many_server, 0 },
	{ "udp-errqueue", run_errqueue, 0 },
	{ "ping", run_ping, SOCK_DGRAM },
	{ "raw-ping", run_ping, SOCK_RAW },
	{ "raw-client", run_raw_client, 0 },
	{ "raw-server", run_raw_server, 0 },
	{ "packet-send", run_packet_send, 0 },
	{ "packet-receive", run_packet_receive, 0 },
	{ "packet-tx-ring", run_packet_tx_ring, 0 },
	{ "packet-rx-ring", run_packet_rx_ring, 0 },
	{ "xdp", run_xdp, 0 },
	{ "pass-give", run_pass_give, 0 },
	{ "pass-take", run_pass_take, 0 },
	{ "inherit", run_inherit, 0 },
	{ "inetd", run_inetd, 0 },
	{ "fork", run_fork, 0 },
	{ "oneshot", run_oneshot, 0 },
	{ "idle", run_idle, 0 },
	{ "rename-argv", run_rename_argv, 0 },
};

int main(int argc, char **argv)
{
	if (argc < 2)
		fail_usage("needed", "SCENARIO");
	signal(SIGPIPE, SIG_IGN);
	options_parse(argc - 2, argv + 2);
	remember_argv(argc, argv);
	if (option_number("fd", UINT64_MAX) == 0)
		control_keep_stdin(false);
	for (size_t i = 0; i < sizeof(scenarios) / sizeof(scenarios[0]); i++) {
		if (strcmp(scenarios[i].name, argv[1]) != 0)
			continue;
		report_scenario(scenarios[i].name);
		scenarios[i].run(scenarios[i].argument);
		return 0;
	}
	fail_usage("no such scenario", argv[1]);
}
