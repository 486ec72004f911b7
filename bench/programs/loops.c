// SPDX-License-Identifier: Apache-2.0
/*
 * Loops over socket calls on loopback, each in one thread or two, that print nanoseconds per round.
 *
 *   loops udp COUNT          a 64 byte datagram there, connected sockets
 *   loops udp-peer COUNT     the same by sendto() and recvfrom()
 *   loops tcp COUNT          64 bytes there and back, both ends on one CPU
 *   loops bulk MEGABYTES     as much as there is
 *   loops connect COUNT      connect, accept, close
 *   loops exec COUNT         fork and exec of /bin/true
 *   loops many COUNT         as udp, but each time from the next one of 10,000 sockets
 *
 * and, for so many seconds, load at a steady rate:
 *
 *   loops idle SECONDS       10,000 sockets that do nothing
 *   loops busy SECONDS       10,000 sockets that send a datagram each second
 *   loops closes SECONDS     1,000 connections a second, opened and closed
 *
 * A third argument sets another number of sockets, or of connections a second.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <sched.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

extern char **environ;

static struct timespec start, end;
static struct sockaddr_in address = { .sin_family = AF_INET };
static socklen_t address_bytes = sizeof(address);
static long rounds, sockets;

#define STEPS 100 /* in which a second of steady load is spread */

static void check(int failed, const char *what)
{
	if (!failed)
		return;
	perror(what);
	exit(1);
}

static void bind_to_loopback(int fd)
{
	address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	check(bind(fd, (struct sockaddr *)&address, sizeof(address)), "bind");
	check(getsockname(fd, (struct sockaddr *)&address, &address_bytes), "getsockname");
}

static void udp(int names_peer)
{
	int receiver = socket(AF_INET, SOCK_DGRAM, 0), sender = socket(AF_INET, SOCK_DGRAM, 0);
	struct sockaddr_in from;
	char data[64] = { 0 };

	bind_to_loopback(receiver);
	if (!names_peer)
		check(connect(sender, (struct sockaddr *)&address, sizeof(address)), "connect");
	for (long i = 0; i < rounds; i++) {
		socklen_t bytes = sizeof(from);

		if (names_peer) {
			sendto(sender, data, 64, 0, (struct sockaddr *)&address, sizeof(address));
			recvfrom(receiver, data, 64, 0, (struct sockaddr *)&from, &bytes);
		} else {
			send(sender, data, 64, 0);
			recv(receiver, data, 64, 0);
		}
	}
}

/* Between two of them most of the time is that of waking one that idles: 75 us in a virtual machine, a tenth of it where
 * anything else keeps that one awake. */
static void stay_on_this_cpu(void)
{
	cpu_set_t one;

	CPU_ZERO(&one);
	CPU_SET(sched_getcpu(), &one);
	check(sched_setaffinity(0, sizeof(one), &one), "one CPU");
}

static void *echo(void *argument)
{
	int fd = *(int *)argument;
	char data[64];
	ssize_t bytes;

	while ((bytes = recv(fd, data, sizeof(data), 0)) > 0)
		send(fd, data, bytes, 0);
	return NULL;
}

static void *sink(void *argument)
{
	int fd = *(int *)argument;
	static char data[256 * 1024];

	while (recv(fd, data, sizeof(data), 0) > 0)
		;
	return NULL;
}

static void tcp(void *(*other_end)(void *), size_t chunk, long count, int waits)
{
	int listener = socket(AF_INET, SOCK_STREAM, 0), client = socket(AF_INET, SOCK_STREAM, 0);
	int one = 1, server;
	pthread_t thread;
	char *data = calloc(1, chunk);

	if (waits)
		stay_on_this_cpu();
	bind_to_loopback(listener);
	check(listen(listener, 8), "listen");
	check(connect(client, (struct sockaddr *)&address, sizeof(address)), "connect");
	server = accept(listener, NULL, NULL);
	setsockopt(client, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	setsockopt(server, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	check(pthread_create(&thread, NULL, other_end, &server), "thread");
	for (long i = 0; i < count; i++) {
		check(send(client, data, chunk, 0) != (ssize_t)chunk, "send");
		if (waits)
			recv(client, data, chunk, MSG_WAITALL);
	}
	shutdown(client, SHUT_WR);
	pthread_join(thread, NULL);
}

static void connect_and_close(int listener)
{
	int client = socket(AF_INET, SOCK_STREAM, 0), server;
	struct linger reset = { .l_onoff = 1 };

	check(connect(client, (struct sockaddr *)&address, sizeof(address)), "connect");
	server = accept(listener, NULL, NULL);
	/* A reset leaves no TIME_WAIT, of which there are only so many. */
	setsockopt(client, SOL_SOCKET, SO_LINGER, &reset, sizeof(reset));
	close(client);
	close(server);
}

static int listening(void)
{
	int listener = socket(AF_INET, SOCK_STREAM, 0);

	bind_to_loopback(listener);
	check(listen(listener, 128), "listen");
	return listener;
}

static void connections(void)
{
	int listener = listening();

	for (long i = 0; i < rounds; i++)
		connect_and_close(listener);
}

static int *open_senders(int *receiver)
{
	struct rlimit files = { sockets + 64, sockets + 64 };
	int *senders = calloc(sockets, sizeof(*senders));

	check(setrlimit(RLIMIT_NOFILE, &files), "as many open files");
	*receiver = socket(AF_INET, SOCK_DGRAM, 0);
	bind_to_loopback(*receiver);
	for (long i = 0; i < sockets; i++) {
		senders[i] = socket(AF_INET, SOCK_DGRAM, 0);
		check(connect(senders[i], (struct sockaddr *)&address, sizeof(address)), "connect");
	}
	return senders;
}

static void many(void)
{
	char data[64] = { 0 };
	int receiver, *senders = open_senders(&receiver);

	clock_gettime(CLOCK_MONOTONIC, &start);
	for (long i = 0; i < rounds; i++) {
		send(senders[i % sockets], data, 64, 0);
		recv(receiver, data, 64, 0);
	}
}

/* What a hundredth of a second brings, for the given seconds. */
static void steadily(void (*step)(long number, void *state), void *state)
{
	struct timespec next;

	clock_gettime(CLOCK_MONOTONIC, &next);
	for (long i = 0; i < rounds * STEPS; i++) {
		step(i, state);
		next.tv_nsec += 1000000000 / STEPS;
		if (next.tv_nsec >= 1000000000) {
			next.tv_nsec -= 1000000000;
			next.tv_sec++;
		}
		clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &next, NULL);
	}
}

static void nothing(long number, void *state)
{
}

static void some_sends(long number, void *state)
{
	char data[64] = { 0 };
	int *senders = state;

	for (long i = 0; i < sockets / STEPS; i++)
		send(senders[(number * (sockets / STEPS) + i) % sockets], data, 64, MSG_DONTWAIT);
}

static void some_closes(long number, void *state)
{
	for (long i = 0; i < sockets / STEPS; i++)
		connect_and_close(*(int *)state);
}

static void execs(void)
{
	char *arguments[] = { "/bin/true", NULL };

	for (long i = 0; i < rounds; i++) {
		pid_t pid;

		check(posix_spawn(&pid, arguments[0], NULL, NULL, arguments, environ), "spawn");
		waitpid(pid, NULL, 0);
	}
}

static int steady_load(const char *load)
{
	int descriptor, *senders;

	if (!strcmp(load, "closes")) {
		descriptor = listening();
		steadily(some_closes, &descriptor);
		return 1;
	}
	if (strcmp(load, "idle") && strcmp(load, "busy"))
		return 0;
	senders = open_senders(&descriptor);
	steadily(strcmp(load, "idle") ? some_sends : nothing, senders);
	return 1;
}

int main(int count, char **arguments)
{
	const char *loop = count >= 3 ? arguments[1] : "";

	rounds = count >= 3 ? atol(arguments[2]) : 0;
	sockets = count == 4 ? atol(arguments[3]) : strcmp(loop, "closes") ? 10000 : 1000;
	clock_gettime(CLOCK_MONOTONIC, &start);
	if (!strcmp(loop, "udp"))
		udp(0);
	else if (!strcmp(loop, "udp-peer"))
		udp(1);
	else if (!strcmp(loop, "tcp"))
		tcp(echo, 64, rounds, 1);
	else if (!strcmp(loop, "bulk"))
		tcp(sink, 128 * 1024, rounds * 8, 0);
	else if (!strcmp(loop, "connect"))
		connections();
	else if (!strcmp(loop, "exec"))
		execs();
	else if (!strcmp(loop, "many"))
		many();
	else if (!steady_load(loop))
		return 2;
	clock_gettime(CLOCK_MONOTONIC, &end);
	printf("%.1f\n",
	       ((end.tv_sec - start.tv_sec) * 1e9 + (end.tv_nsec - start.tv_nsec)) / rounds);
	return 0;
}
