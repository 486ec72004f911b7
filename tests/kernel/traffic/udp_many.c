// SPDX-License-Identifier: Apache-2.0
/* One unconnected socket that talks to many peers, from one thread or several. */
#include "traffic.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#define PEERS_MAX   256
#define THREADS_MAX 16

static struct endpoint peers[PEERS_MAX];
static size_t peer_count;
static int shared_fd;
static uint64_t threads;

static void parse_peers(void)
{
	char *list = strdup(option_text("to", ""));
	char *rest = NULL;

	for (char *pair = strtok_r(list, ",", &rest); pair; pair = strtok_r(NULL, ",", &rest)) {
		if (peer_count == PEERS_MAX)
			fail_usage("too many peers", "to");
		peers[peer_count++] = endpoint_parse_pair(pair);
	}
	if (!peer_count)
		fail_usage("needed: host:port,host:port", "to");
	free(list);
}

/*
 * Peer after peer in turn, so that a note of "the last peer" would be wrong. With mode=pingpong
 * each datagram is followed by one read: with several threads possibly of another's answer.
 */
static void *talk(void *argument)
{
	size_t first = (size_t)(uintptr_t)argument;
	bool answers = mode_option(MODE_SOURCE) == MODE_PINGPONG;
	uint64_t count = option_number("count", 1), size = option_number("size", 100);
	struct way out, in;

	way_open_send(&out, shared_fd, &peers[first], (size_t)size + peer_count);
	way_open_receive(&in, shared_fd, option_text("receive_via", "recvfrom"));
	for (uint64_t i = 0; i < count; i++) {
		for (size_t peer = first; peer < peer_count; peer += threads) {
			ssize_t received;

			out.peer = peers[peer];
			/* Each peer's datagrams have a size of their own. */
			way_send(&out, (size_t)size + peer);
			if (!answers)
				continue;
			received = way_receive(&in, in.size);
			if (received < 0)
				fail("receive");
			count_received(received, in.calls, &in.peer);
		}
	}
	return NULL;
}

/* count= datagrams to each of to=, of size= bytes plus the peer's place in the list. */
void run_udp_many(int unused)
{
	pthread_t ids[THREADS_MAX];

	(void)unused;
	parse_peers();
	threads = option_number("threads", 1);
	if (threads < 1 || threads > THREADS_MAX || threads > peer_count)
		fail_usage("out of range", "threads");
	shared_fd = socket_open(peers[0].address.ss_family, SOCK_DGRAM, 0);
	receive_room(shared_fd);
	report_ready_socket(shared_fd);
	wait_for_start();
	for (uint64_t i = 0; i < threads; i++)
		if (pthread_create(&ids[i], NULL, talk, (void *)(uintptr_t)i))
			fail("pthread_create");
	for (uint64_t i = 0; i < threads; i++)
		pthread_join(ids[i], NULL);
	note_drops(shared_fd);
	report_totals("done");
	if (option_number("hold", 0))
		wait_for_close();
}
