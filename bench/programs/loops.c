// SPDX-License-Identifier: Apache-2.0
/*
 * Loops over socket calls on loopback, each in one thread or two, that print nanoseconds per round.
 *
 *   loops udp COUNT          a 64 byte datagram there, connected sockets
 *   loops udp-peer COUNT     the same by sendto() and recvfrom()
 *   loops tcp COUNT          64 bytes there and back
 *   loops bulk MEGABYTES     as much as there is
 *   loops connect COUNT      connect, accept, close
 *   loops exec COUNT         fork and exec of /bin/true
 */
#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

extern char **environ;

static struct sockaddr_in address = { .sin_family = AF_INET };
static socklen_t address_bytes = sizeof(address);
static long rounds;

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

static void connections(void)
{
	int listener = socket(AF_INET, SOCK_STREAM, 0);
	struct linger reset = { .l_onoff = 1 };

	bind_to_loopback(listener);
	check(listen(listener, 128), "listen");
	for (long i = 0; i < rounds; i++) {
		int client = socket(AF_INET, SOCK_STREAM, 0), server;

		check(connect(client, (struct sockaddr *)&address, sizeof(address)), "connect");
		server = accept(listener, NULL, NULL);
		/* A reset leaves no TIME_WAIT, of which there are only so many. */
		setsockopt(client, SOL_SOCKET, SO_LINGER, &reset, sizeof(reset));
		close(client);
		close(server);
	}
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

int main(int count, char **arguments)
{
	struct timespec start, end;
	const char *loop = count == 3 ? arguments[1] : "";

	rounds = count == 3 ? atol(arguments[2]) : 0;
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
	else
		return 2;
	clock_gettime(CLOCK_MONOTONIC, &end);
	printf("%.1f\n",
	       ((end.tv_sec - start.tv_sec) * 1e9 + (end.tv_nsec - start.tv_nsec)) / rounds);
	return 0;
}
