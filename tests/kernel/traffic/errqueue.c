// SPDX-License-Identifier: Apache-2.0
/* The error queue gives a program its own datagrams back: bytes that must not count as received. */
#include "traffic.h"

#include <errno.h>
#include <netinet/in.h>
#include <poll.h>

/* count= datagrams of size= to a closed port=; each comes back with the ICMP error. */
void run_errqueue(int unused)
{
	struct endpoint to = target();
	bool six = to.address.ss_family == AF_INET6;
	uint64_t count = option_number("count", 1);
	int fd = socket_open(to.address.ss_family, SOCK_DGRAM, 0);
	struct way way;

	(void)unused;
	if (!endpoint_port(&to)) {
		struct endpoint free_port = to;
		int other = socket_open(to.address.ss_family, SOCK_DGRAM, 0);

		/* Bound elsewhere, and connected away: it answers nobody, and keeps the port. */
		socket_bind(other, &free_port);
		to = endpoint_of_socket(other);
		socket_connect(other, &to);
	}
	socket_set(fd, six ? IPPROTO_IPV6 : IPPROTO_IP, six ? IPV6_RECVERR : IP_RECVERR, 1,
		   "IP_RECVERR");
	socket_connect(fd, &to);
	report_ready_socket(fd);
	wait_for_start();
	way_open_send(&way, fd, NULL, 0);
	for (uint64_t i = 0; i < count; i++) {
		struct pollfd waiting = { .fd = fd };
		char data[65536];
		ssize_t returned;

		way_send(&way, way.size);
		if (poll(&waiting, 1, -1) < 0)
			fail("poll");
		returned = recv(fd, data, sizeof(data), MSG_ERRQUEUE);
		if (returned < 0)
			fail("recv MSG_ERRQUEUE");
		note("errqueue_bytes", (uint64_t)returned);
	}
	report_totals("done");
	if (option_number("hold", 0))
		wait_for_close();
}
