// SPDX-License-Identifier: Apache-2.0
/* What was moved, and one JSON object per line on stdout. */
#include "traffic.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Peers and notes above these are only counted: tests that need them use fewer. */
#define PEERS_MAX 32768
#define NOTES_MAX 16

struct totals {
	uint64_t sent, received, calls_sent, calls_received;
};

static struct peer {
	struct endpoint endpoint;
	struct totals totals;
} peers[PEERS_MAX];
static struct {
	const char *name;
	uint64_t amount;
} notes[NOTES_MAX];
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct totals totals;
static size_t peer_count, note_count;
static uint64_t peers_omitted;
static const char *scenario = "";

static struct peer *find_peer(const struct endpoint *endpoint)
{
	static size_t last;

	if (!endpoint || !endpoint->length)
		return NULL;
	if (last < peer_count && endpoint_equal(&peers[last].endpoint, endpoint))
		return &peers[last];
	for (size_t i = 0; i < peer_count; i++) {
		if (endpoint_equal(&peers[i].endpoint, endpoint)) {
			last = i;
			return &peers[i];
		}
	}
	if (peer_count == PEERS_MAX) {
		peers_omitted++;
		return NULL;
	}
	peers[peer_count].endpoint = *endpoint;
	last = peer_count++;
	return &peers[last];
}

void count_sent(ssize_t length, unsigned int calls, const struct endpoint *endpoint)
{
	struct peer *peer;

	pthread_mutex_lock(&lock);
	totals.sent += (uint64_t)length;
	totals.calls_sent += calls;
	peer = find_peer(endpoint);
	if (peer) {
		peer->totals.sent += (uint64_t)length;
		peer->totals.calls_sent += calls;
	}
	pthread_mutex_unlock(&lock);
}

void count_received(ssize_t length, unsigned int calls, const struct endpoint *endpoint)
{
	struct peer *peer;

	pthread_mutex_lock(&lock);
	totals.received += (uint64_t)length;
	totals.calls_received += calls;
	peer = find_peer(endpoint);
	if (peer) {
		peer->totals.received += (uint64_t)length;
		peer->totals.calls_received += calls;
	}
	pthread_mutex_unlock(&lock);
}

/* One message of several that are counted together: only its peer's share. */
void count_peer_received(size_t length, const struct endpoint *endpoint)
{
	struct peer *peer;

	pthread_mutex_lock(&lock);
	peer = find_peer(endpoint);
	if (peer) {
		peer->totals.received += length;
		peer->totals.calls_received++;
	}
	pthread_mutex_unlock(&lock);
}

/* Adds to a named number that 'done' carries beside the totals. */
void note(const char *name, uint64_t amount)
{
	size_t i = 0;

	pthread_mutex_lock(&lock);
	while (i < note_count && strcmp(notes[i].name, name) != 0)
		i++;
	if (i < NOTES_MAX) {
		notes[i].name = name;
		notes[i].amount += amount;
		if (i == note_count)
			note_count++;
	}
	pthread_mutex_unlock(&lock);
}

void report_scenario(const char *name)
{
	scenario = name;
}

/* For a child after fork(): it accounts for itself alone. */
void report_reset(void)
{
	memset(&totals, 0, sizeof(totals));
	memset(peers, 0, sizeof(peers));
	memset(notes, 0, sizeof(notes));
	peer_count = note_count = 0;
}

static void print_totals(const struct totals *of)
{
	printf("\"sent\":%llu,\"received\":%llu,\"calls_sent\":%llu,\"calls_received\":%llu",
	       (unsigned long long)of->sent, (unsigned long long)of->received,
	       (unsigned long long)of->calls_sent, (unsigned long long)of->calls_received);
}

static void begin(const char *event)
{
	printf("{\"event\":\"%s\",\"scenario\":\"%s\",\"pid\":%d", event, scenario, getpid());
}

static void end(void)
{
	printf("}\n");
	if (fflush(stdout))
		_exit(1);
}

void report_ready(unsigned int port)
{
	begin("ready");
	printf(",\"port\":%u", port);
	end();
}

void report_ready_socket(int fd)
{
	struct endpoint local = endpoint_of_socket(fd);

	report_ready(endpoint_port(&local));
}

void report_totals(const char *event)
{
	char host[128];

	pthread_mutex_lock(&lock);
	begin(event);
	printf(",");
	print_totals(&totals);
	printf(",\"peers\":[");
	for (size_t i = 0; i < peer_count; i++) {
		const struct endpoint *peer = &peers[i].endpoint;

		printf("%s{\"host\":\"%s\",\"port\":%u,", i ? "," : "",
		       endpoint_host(peer, host, sizeof(host)), endpoint_port(peer));
		print_totals(&peers[i].totals);
		printf("}");
	}
	printf("],\"peers_omitted\":%llu,\"notes\":{", (unsigned long long)peers_omitted);
	for (size_t i = 0; i < note_count; i++)
		printf("%s\"%s\":%llu", i ? "," : "", notes[i].name,
		       (unsigned long long)notes[i].amount);
	printf("}");
	end();
	pthread_mutex_unlock(&lock);
}

void fail(const char *what)
{
	fprintf(stderr, "traffic %s: %s: %s\n", scenario, what, strerror(errno));
	exit(1);
}

void fail_usage(const char *what, const char *which)
{
	fprintf(stderr, "traffic %s: %s: %s (see tests/kernel/traffic/README.md)\n", scenario, what,
		which);
	exit(2);
}

void unsupported(const char *what)
{
	begin("unsupported");
	printf(",\"reason\":\"%s: %s\"", what, strerror(errno));
	end();
	exit(EXIT_UNSUPPORTED);
}

/* Tells a kernel without the feature from a real failure, by errno. */
void fail_feature(const char *what)
{
	switch (errno) {
	case ENOSYS:
	case ENOPROTOOPT:
	case EPROTONOSUPPORT:
	case ESOCKTNOSUPPORT:
	case EPFNOSUPPORT:
	case EAFNOSUPPORT:
	case EOPNOTSUPP:
	case 524: /* ENOTSUPP, the kernel's own, which leaks out of setsockopt() */
		unsupported(what);
	default:
		fail(what);
	}
}
