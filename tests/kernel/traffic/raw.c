// SPDX-License-Identifier: Apache-2.0
/* ICMP by ping and raw sockets, raw IP of an unassigned protocol, own IPv4 headers. */
#include "traffic.h"

#include <errno.h>
#include <linux/icmp.h>
#include <netinet/icmp6.h>
#include <netinet/in.h>
#include <netinet/ip.h>

#include <string.h>

static void finish(int fd)
{
	note_drops(fd);
	report_totals("done");
	if (option_number("hold", 0))
		wait_for_close();
}

static uint16_t checksum(const void *data, size_t length)
{
	const uint8_t *bytes = data;
	uint32_t sum = 0;

	for (size_t i = 0; i < length; i++)
		sum += i % 2 ? bytes[i] : (uint32_t)bytes[i] << 8;
	while (sum >> 16)
		sum = (sum & 0xffff) + (sum >> 16);
	return htons((uint16_t)~sum);
}

/* Loopback shows a raw socket the request as well: only replies pass. */
static void only_replies(int fd, bool six)
{
	struct icmp_filter four = { .data = ~(1u << ICMP_ECHOREPLY) };
	struct icmp6_filter filter;

	ICMP6_FILTER_SETBLOCKALL(&filter);
	ICMP6_FILTER_SETPASS(ICMP6_ECHO_REPLY, &filter);
	if (six ? setsockopt(fd, IPPROTO_ICMPV6, ICMP6_FILTER, &filter, sizeof(filter))
		: setsockopt(fd, SOL_RAW, ICMP_FILTER, &four, sizeof(four)))
		fail_feature("ICMP filter");
}

/*
 * count= echo requests of size= bytes after the 8 of the header, each followed by its reply. What
 * counts is what the calls return: with ICMP header, and for raw IPv4 receive with the IP header.
 * A ping socket needs net.ipv4.ping_group_range, which is per network namespace.
 */
void run_ping(int type)
{
	struct endpoint to = target();
	bool six = to.address.ss_family == AF_INET6;
	uint64_t count = option_number("count", 1);
	size_t length = sizeof(struct icmphdr) + (size_t)option_number("size", 56);
	int fd = socket_open(to.address.ss_family, type, six ? IPPROTO_ICMPV6 : IPPROTO_ICMP);
	struct way in, out;

	if (type == SOCK_RAW)
		only_replies(fd, six);
	if (option_number("connected", 0))
		socket_connect(fd, &to);
	report_ready(0);
	wait_for_start();
	endpoint_set_port(&to, 0);
	way_open_send(&out, fd, &to, length);
	way_open_receive(&in, fd, option_text("receive_via", "recvfrom"));
	for (uint64_t i = 0; i < count; i++) {
		/* ICMPv6 has the same layout; its checksum is always the kernel's. */
		struct icmphdr *header = (struct icmphdr *)out.buffer;
		ssize_t received;

		memset(header, 0, sizeof(*header));
		header->type = six ? ICMP6_ECHO_REQUEST : ICMP_ECHO;
		header->un.echo.sequence = htons((uint16_t)i);
		if (!six)
			header->checksum = checksum(out.buffer, length);
		way_send(&out, length);
		received = way_receive(&in, in.size);
		if (received < 0)
			fail("receive");
		count_received(received, in.calls, &in.peer);
	}
	finish(fd);
}

/* proto= (253) to host=, count= packets of size=; with hdrincl=1 the IPv4 header is ours. */
void run_raw_client(int unused)
{
	struct endpoint to = target();
	bool headers = option_number("hdrincl", 0);
	int protocol = (int)option_number("proto", PROTOCOL_EXPERIMENT);
	size_t length = (size_t)option_number("size", 100);
	int fd = socket_open(to.address.ss_family, SOCK_RAW, headers ? IPPROTO_RAW : protocol);
	struct way way;

	(void)unused;
	if (headers && to.address.ss_family != AF_INET)
		fail_usage("IPv4 only", "hdrincl");
	length += headers ? sizeof(struct iphdr) : 0;
	endpoint_set_port(&to, 0);
	if (option_number("connected", 0))
		socket_connect(fd, &to);
	way_open_send(&way, fd, &to, length);
	if (headers) {
		/* The kernel fills in source, id, length and checksum. */
		struct iphdr header = {
			.version = 4,
			.ihl = sizeof(header) / 4,
			.ttl = 64,
			.protocol = (uint8_t)protocol,
			.daddr = ((struct sockaddr_in *)&to.address)->sin_addr.s_addr,
		};

		memcpy(way.buffer, &header, sizeof(header));
	}
	report_ready(0);
	wait_for_start();
	for (uint64_t i = option_number("count", 1); i; i--)
		way_send(&way, length);
	finish(fd);
}

/* Receives proto= at bind=: expect= bytes (IPv4: with headers) or count= packets. */
void run_raw_server(int unused)
{
	struct endpoint local = endpoint_parse(option_text("bind", "127.0.0.1"), 0);
	int fd = socket_open(local.address.ss_family, SOCK_RAW,
			     (int)option_number("proto", PROTOCOL_EXPERIMENT));

	(void)unused;
	receive_room(fd);
	socket_bind(fd, &local);
	report_ready(0);
	pump_in(fd, false);
	finish(fd);
}
