// SPDX-License-Identifier: Apache-2.0
/* AF_XDP: a bound socket with its memory; what it moves, no system call returns. */
#include "traffic.h"

#include <errno.h>
#include <linux/if_xdp.h>
#include <string.h>
#include <sys/mman.h>

#ifndef SOL_XDP
#define SOL_XDP 283
#endif

#define FRAME_SIZE 2048
#define FRAMES	   64

/* The transmit ring. Linux 6.1 maps none of a socket that is bound. */
static char *map_ring(int fd, struct xdp_mmap_offsets *offsets)
{
	socklen_t length = sizeof(*offsets);
	void *ring;

	if (getsockopt(fd, SOL_XDP, XDP_MMAP_OFFSETS, offsets, &length))
		fail("XDP_MMAP_OFFSETS");
	ring = mmap(NULL, offsets->tx.desc + FRAMES * sizeof(struct xdp_desc),
		    PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd, XDP_PGOFF_TX_RING);
	if (ring == MAP_FAILED)
		fail("mmap of the AF_XDP ring");
	return ring;
}

/* Sends count= frames of size= bytes through the transmit ring; the kick itself returns 0. */
static void transmit(int fd, char *memory, char *ring, const struct xdp_mmap_offsets *offsets)
{
	struct xdp_desc *descriptors = (struct xdp_desc *)(ring + offsets->tx.desc);
	uint32_t *producer = (uint32_t *)(ring + offsets->tx.producer);
	uint32_t size = (uint32_t)option_number("size", 100);
	uint64_t count = option_number("count", 0);

	if (count > FRAMES)
		fail_usage("more than the ring holds", "count");
	for (uint32_t i = 0; i < count; i++) {
		memset(memory + (size_t)i * FRAME_SIZE, 0xff, size);
		descriptors[i] = (struct xdp_desc){ .addr = (uint64_t)i * FRAME_SIZE, .len = size };
		__atomic_store_n(producer, i + 1, __ATOMIC_RELEASE);
		while (sendto(fd, NULL, 0, MSG_DONTWAIT, NULL, 0) < 0)
			if (errno != EAGAIN && errno != EBUSY && errno != ENOBUFS)
				fail("AF_XDP kick");
		note("ring_bytes", size);
		note("ring_frames", 1);
	}
}

void run_xdp(int unused)
{
	int fd = socket(AF_XDP, SOCK_RAW | SOCK_CLOEXEC, 0), entries = FRAMES;
	char *memory = mmap(NULL, FRAMES * FRAME_SIZE, PROT_READ | PROT_WRITE,
			    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct xdp_umem_reg area = {
		.addr = (uintptr_t)memory,
		.len = FRAMES * FRAME_SIZE,
		.chunk_size = FRAME_SIZE,
	};
	struct sockaddr_xdp address = {
		.sxdp_family = AF_XDP,
		.sxdp_ifindex = interface_index(),
		.sxdp_flags = XDP_COPY,
	};
	struct xdp_mmap_offsets offsets;
	char *ring;

	(void)unused;
	if (fd < 0)
		fail_feature("socket AF_XDP");
	if (memory == MAP_FAILED)
		fail("mmap");
	if (setsockopt(fd, SOL_XDP, XDP_UMEM_REG, &area, sizeof(area)))
		fail_feature("XDP_UMEM_REG");
	socket_set(fd, SOL_XDP, XDP_UMEM_FILL_RING, entries, "XDP_UMEM_FILL_RING");
	socket_set(fd, SOL_XDP, XDP_UMEM_COMPLETION_RING, entries, "XDP_UMEM_COMPLETION_RING");
	socket_set(fd, SOL_XDP, XDP_TX_RING, entries, "XDP_TX_RING");
	ring = map_ring(fd, &offsets);
	if (bind(fd, (const struct sockaddr *)&address, sizeof(address)))
		fail_feature("bind AF_XDP");
	report_ready(0);
	wait_for_start();
	transmit(fd, memory, ring, &offsets);
	report_totals("done");
	if (option_number("hold", 0))
		wait_for_close();
}
