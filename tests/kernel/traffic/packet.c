// SPDX-License-Identifier: Apache-2.0
/* AF_PACKET: frames of an experimental type by system calls and by mapped rings. */
#include "traffic.h"

#include <arpa/inet.h>
#include <errno.h>
#include <linux/if_packet.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <poll.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

#define FRAME_SIZE 2048
#define FRAMES	   64
#define BLOCK_SIZE (FRAME_SIZE * 2)

static bool is_raw(void)
{
	return strcmp(option_text("type", "dgram"), "raw") == 0;
}

static struct endpoint link_address(void)
{
	struct endpoint result = { .length = sizeof(struct sockaddr_ll) };
	struct sockaddr_ll *link = (struct sockaddr_ll *)&result.address;

	link->sll_family = AF_PACKET;
	link->sll_protocol = htons(ETHERTYPE_EXPERIMENT);
	link->sll_ifindex = (int)interface_index();
	link->sll_halen = ETH_ALEN;
	/* Broadcast: whatever the interface at the other end is called. */
	memset(link->sll_addr, 0xff, ETH_ALEN);
	return result;
}

/* A sender's protocol is 0: it receives nothing. */
static int open_sender(void)
{
	return socket_open(AF_PACKET, is_raw() ? SOCK_RAW : SOCK_DGRAM, 0);
}

static void fill_header(char *frame, int fd)
{
	struct ether_header header = { .ether_type = htons(ETHERTYPE_EXPERIMENT) };
	struct ifreq request = { 0 };

	strncpy(request.ifr_name, option_text("interface", "lo"), IFNAMSIZ - 1);
	if (ioctl(fd, SIOCGIFHWADDR, &request))
		fail("SIOCGIFHWADDR");
	memset(header.ether_dhost, 0xff, ETH_ALEN);
	memcpy(header.ether_shost, request.ifr_hwaddr.sa_data, ETH_ALEN);
	memcpy(frame, &header, sizeof(header));
}

static void finish(void)
{
	report_totals("done");
	if (option_number("hold", 0))
		wait_for_close();
}

/* count= frames with size= bytes of payload on interface=; type=raw counts its header too. */
void run_packet_send(int unused)
{
	struct endpoint to = link_address();
	size_t length = (size_t)option_number("size", 100);
	int fd = open_sender();
	struct way way;

	(void)unused;
	length += is_raw() ? sizeof(struct ether_header) : 0;
	way_open_send(&way, fd, &to, length);
	/* A packet socket always needs the address, and has no peer to report. */
	way.connected = false;
	way.peer = to;
	if (is_raw())
		fill_header(way.buffer, fd);
	report_ready(0);
	wait_for_start();
	for (uint64_t i = option_number("count", 1); i; i--)
		way_send(&way, length);
	finish();
}

/* Receives the experimental type on interface=: expect= bytes or count= frames. */
void run_packet_receive(int unused)
{
	struct endpoint local = link_address();
	int fd = socket_open(AF_PACKET, is_raw() ? SOCK_RAW : SOCK_DGRAM, 0);

	(void)unused;
	receive_room(fd);
	socket_bind(fd, &local);
	report_ready(0);
	pump_in(fd, false);
	finish();
}

static char *map_ring(int fd, int which)
{
	struct tpacket_req request = {
		.tp_block_size = BLOCK_SIZE,
		.tp_block_nr = FRAMES * FRAME_SIZE / BLOCK_SIZE,
		.tp_frame_size = FRAME_SIZE,
		.tp_frame_nr = FRAMES,
	};
	char *ring;

	socket_set(fd, SOL_PACKET, PACKET_VERSION, TPACKET_V2, "PACKET_VERSION");
	if (setsockopt(fd, SOL_PACKET, which, &request, sizeof(request)))
		fail_feature("packet ring");
	ring = mmap(NULL, FRAMES * FRAME_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (ring == MAP_FAILED)
		fail("mmap of the packet ring");
	return ring;
}

/* The same by a transmit ring: batch= frames (4) for each call of send(). */
void run_packet_tx_ring(int unused)
{
	struct endpoint local = link_address();
	size_t length = (size_t)option_number("size", 100);
	uint64_t count = option_number("count", 1), batch = option_number("batch", 4);
	int fd = open_sender();
	char *ring = map_ring(fd, PACKET_TX_RING);

	(void)unused;
	if (batch < 1 || batch > FRAMES)
		fail_usage("out of range", "batch");
	length += is_raw() ? sizeof(struct ether_header) : 0;
	socket_bind(fd, &local);
	report_ready(0);
	wait_for_start();
	for (uint64_t next = 0; next < count;) {
		ssize_t sent;

		for (uint64_t i = 0; i < batch && next < count; i++, next++) {
			char *frame = ring + next % FRAMES * FRAME_SIZE;
			struct tpacket2_hdr *header = (struct tpacket2_hdr *)frame;
			/* Where the kernel looks for data without PACKET_TX_HAS_OFF. */
			char *data = frame + TPACKET2_HDRLEN - sizeof(struct sockaddr_ll);

			while (__atomic_load_n(&header->tp_status, __ATOMIC_ACQUIRE) !=
			       TP_STATUS_AVAILABLE)
				if (poll(&(struct pollfd){ .fd = fd, .events = POLLOUT }, 1, -1) <
				    0)
					fail("poll");
			memset(data, 'a', length);
			if (is_raw())
				fill_header(data, fd);
			header->tp_len = (uint32_t)length;
			__atomic_store_n(&header->tp_status, TP_STATUS_SEND_REQUEST,
					 __ATOMIC_RELEASE);
		}
		sent = sendto(fd, NULL, 0, 0, (const struct sockaddr *)&local.address,
			      local.length);
		if (sent < 0)
			fail("send of the ring");
		count_sent(sent, 1, NULL);
	}
	finish();
}

/* Reads frames from a mapped ring: no call ever returns their bytes, so none are 'received'. */
void run_packet_rx_ring(int unused)
{
	struct endpoint local = link_address();
	uint64_t count = option_number("count", 1);
	int fd = socket_open(AF_PACKET, is_raw() ? SOCK_RAW : SOCK_DGRAM, 0);
	char *ring = map_ring(fd, PACKET_RX_RING);

	(void)unused;
	socket_bind(fd, &local);
	report_ready(0);
	for (uint64_t i = 0; i < count; i++) {
		struct tpacket2_hdr *header =
			(struct tpacket2_hdr *)(ring + i % FRAMES * FRAME_SIZE);

		while (!(__atomic_load_n(&header->tp_status, __ATOMIC_ACQUIRE) & TP_STATUS_USER))
			if (poll(&(struct pollfd){ .fd = fd, .events = POLLIN }, 1, -1) < 0)
				fail("poll");
		note("ring_bytes", header->tp_len);
		note("ring_frames", 1);
		__atomic_store_n(&header->tp_status, TP_STATUS_KERNEL, __ATOMIC_RELEASE);
	}
	finish();
}
