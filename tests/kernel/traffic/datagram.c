// SPDX-License-Identifier: Apache-2.0
/* UDP and UDP-Lite: connected or not, to groups and broadcast, with GSO and GRO. */
#include "traffic.h"

#include <netinet/in.h>
#include <netinet/udp.h>
#include <string.h>

/* linux/udp.h; udplite keeps its own numbers out of the way of these. */
#ifndef UDP_SEGMENT
#define UDP_SEGMENT 103
#endif
#ifndef UDP_GRO
#define UDP_GRO 104
#endif

static void join_group(int fd, const struct endpoint *group)
{
	struct group_req request = { .gr_interface = interface_index() };
	int level = group->address.ss_family == AF_INET6 ? IPPROTO_IPV6 : IPPROTO_IP;

	memcpy(&request.gr_group, &group->address, sizeof(request.gr_group));
	if (setsockopt(fd, level, MCAST_JOIN_GROUP, &request, sizeof(request)))
		fail_feature("MCAST_JOIN_GROUP");
}

static void choose_interface(int fd, int family)
{
	struct ip_mreqn request = { .imr_ifindex = (int)interface_index() };

	if (family == AF_INET6)
		socket_set(fd, IPPROTO_IPV6, IPV6_MULTICAST_IF, request.imr_ifindex,
			   "IPV6_MULTICAST_IF");
	else if (setsockopt(fd, IPPROTO_IP, IP_MULTICAST_IF, &request, sizeof(request)))
		fail_feature("IP_MULTICAST_IF");
}

static void finish(int fd)
{
	note_drops(fd);
	report_totals("done");
	if (option_number("hold", 0))
		wait_for_close();
}

/* Bound to bind= and port=, or to the group= it joins on interface=. */
static int open_server(int protocol)
{
	const char *group = option_text("group", NULL);
	struct endpoint local = endpoint_parse(group ? group : option_text("bind", "127.0.0.1"),
					       (unsigned int)option_number("port", 0));
	int fd;

	if (option_given("fd"))
		return (int)option_number("fd", 0);
	fd = socket_open(local.address.ss_family, SOCK_DGRAM, protocol);
	receive_room(fd);
	if (local.address.ss_family == AF_INET6)
		socket_set(fd, IPPROTO_IPV6, IPV6_V6ONLY, 0, "IPV6_V6ONLY");
	if (group || option_number("broadcast", 0))
		socket_set(fd, SOL_SOCKET, SO_REUSEADDR, 1, "SO_REUSEADDR");
	if (option_number("gro", 0))
		socket_set(fd, IPPROTO_UDP, UDP_GRO, 1, "UDP_GRO");
	socket_bind(fd, &local);
	if (group)
		join_group(fd, &local);
	return fd;
}

/* Answers each datagram where it came from; ends like a sink. */
static void echo(int fd)
{
	uint64_t expect = option_number("expect", 0), got = 0;
	struct way in, out;

	way_open_receive(&in, fd, option_text("receive_via", "recvfrom"));
	way_open_send(&out, fd, NULL, in.size);
	wait_for_start();
	while (expect ? got < expect : readable_before_close(fd)) {
		ssize_t received = way_receive(&in, in.size);

		if (received < 0)
			fail("receive");
		count_received(received, in.calls, &in.peer);
		got += (uint64_t)received;
		if (!out.connected)
			out.peer = in.peer;
		way_send(&out, (size_t)received);
	}
}

void run_udp_server(int protocol)
{
	int fd = open_server(protocol);

	report_ready_socket(fd);
	switch (mode_option(MODE_SINK)) {
	case MODE_SINK:
		pump_in(fd, false);
		break;
	case MODE_ECHO:
		echo(fd);
		break;
	default:
		fail_usage("a datagram server sinks or echoes", "mode");
	}
	finish(fd);
}

static void pingpong(int fd, const struct endpoint *to)
{
	uint64_t left = option_number("bytes", 0);
	struct way in, out;

	way_open_receive(&in, fd, option_text("receive_via", "recvfrom"));
	way_open_send(&out, fd, to, 0);
	wait_for_start();
	while (left) {
		ssize_t received, sent = way_send(&out, left);

		left -= (uint64_t)sent;
		received = way_receive(&in, in.size);
		if (received < 0)
			fail("receive");
		count_received(received, in.calls, &in.peer);
	}
}

/* Connected unless connected=0; bytes= in datagrams of size=, or count= datagrams of size=. */
void run_udp_client(int protocol)
{
	struct endpoint to = target();
	bool connected = option_number("connected", 1);
	int fd;

	if (option_given("fd")) {
		fd = (int)option_number("fd", 0);
	} else {
		fd = socket_open(to.address.ss_family, SOCK_DGRAM, protocol);
		if (option_given("bind")) {
			struct endpoint from = bind_address(to.address.ss_family);

			socket_bind(fd, &from);
		}
		if (option_number("broadcast", 0))
			socket_set(fd, SOL_SOCKET, SO_BROADCAST, 1, "SO_BROADCAST");
		if (option_given("interface"))
			choose_interface(fd, to.address.ss_family);
		if (option_given("gso"))
			socket_set(fd, IPPROTO_UDP, UDP_SEGMENT, (int)option_number("gso", 0),
				   "UDP_SEGMENT");
		if (connected)
			socket_connect(fd, &to);
	}
	report_ready_socket(fd);
	switch (mode_option(MODE_SOURCE)) {
	case MODE_SOURCE:
		pump_out(fd, connected ? NULL : &to,
			 option_given("count") ? 0 : option_number("bytes", 0),
			 option_number("count", 0));
		break;
	case MODE_PINGPONG:
		pingpong(fd, connected ? NULL : &to);
		break;
	case MODE_SINK:
		pump_in(fd, false);
		break;
	case MODE_ECHO:
		echo(fd);
		break;
	}
	finish(fd);
}
