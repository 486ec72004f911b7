// SPDX-License-Identifier: Apache-2.0
/* Addresses from text and back; the family is the text's. */
#include "traffic.h"

#include <arpa/inet.h>
#include <errno.h>
#include <net/if.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>

struct endpoint endpoint_parse(const char *host, unsigned int port)
{
	struct endpoint result = { .length = sizeof(struct sockaddr_in) };
	struct sockaddr_in *four = (struct sockaddr_in *)&result.address;
	struct sockaddr_in6 *six = (struct sockaddr_in6 *)&result.address;
	char text[INET6_ADDRSTRLEN + IF_NAMESIZE + 1] = { 0 };
	char *scope;

	if (strlen(host) >= sizeof(text))
		fail_usage("address too long", host);
	strcpy(text, host);
	if (inet_pton(AF_INET, text, &four->sin_addr) == 1) {
		four->sin_family = AF_INET;
		four->sin_port = htons((uint16_t)port);
		return result;
	}
	scope = strchr(text, '%');
	if (scope)
		*scope++ = '\0';
	memset(&result.address, 0, sizeof(result.address));
	if (inet_pton(AF_INET6, text, &six->sin6_addr) != 1)
		fail_usage("not an IP address", host);
	six->sin6_family = AF_INET6;
	six->sin6_port = htons((uint16_t)port);
	six->sin6_scope_id = scope ? if_nametoindex(scope) : 0;
	result.length = sizeof(*six);
	return result;
}

/* "127.0.0.1:53" or "[::1]:53". */
struct endpoint endpoint_parse_pair(const char *text)
{
	char host[INET6_ADDRSTRLEN + IF_NAMESIZE + 1] = { 0 };
	const char *colon = strrchr(text, ':');
	const char *from = text, *to = colon;

	if (!colon)
		fail_usage("not host:port", text);
	if (*from == '[' && to > from && to[-1] == ']') {
		from++;
		to--;
	}
	if ((size_t)(to - from) >= sizeof(host))
		fail_usage("address too long", text);
	memcpy(host, from, (size_t)(to - from));
	return endpoint_parse(host, (unsigned int)atoi(colon + 1));
}

struct endpoint endpoint_of_peer(int fd)
{
	struct endpoint result = { .length = sizeof(result.address) };

	if (getpeername(fd, (struct sockaddr *)&result.address, &result.length))
		result.length = 0; /* not connected */
	return result;
}

struct endpoint endpoint_of_socket(int fd)
{
	struct endpoint result = { .length = sizeof(result.address) };

	if (getsockname(fd, (struct sockaddr *)&result.address, &result.length))
		fail("getsockname");
	return result;
}

/* host= and port=. */
struct endpoint target(void)
{
	return endpoint_parse(option_text("host", "127.0.0.1"),
			      (unsigned int)option_number("port", 0));
}

/* bind= with port 0, else the family's wildcard. */
struct endpoint bind_address(int family)
{
	return endpoint_parse(option_text("bind", family == AF_INET6 ? "::" : "0.0.0.0"), 0);
}

unsigned int endpoint_port(const struct endpoint *endpoint)
{
	const struct sockaddr_in *four = (const struct sockaddr_in *)&endpoint->address;
	const struct sockaddr_in6 *six = (const struct sockaddr_in6 *)&endpoint->address;

	switch (endpoint->address.ss_family) {
	case AF_INET:
		return ntohs(four->sin_port);
	case AF_INET6:
		return ntohs(six->sin6_port);
	default:
		return 0;
	}
}

void endpoint_set_port(struct endpoint *endpoint, unsigned int port)
{
	/* The port stands at the same offset in both. */
	((struct sockaddr_in *)&endpoint->address)->sin_port = htons((uint16_t)port);
}

bool endpoint_equal(const struct endpoint *left, const struct endpoint *right)
{
	const struct sockaddr_in6 *six_left = (const struct sockaddr_in6 *)&left->address;
	const struct sockaddr_in6 *six_right = (const struct sockaddr_in6 *)&right->address;

	if (left->address.ss_family != right->address.ss_family ||
	    endpoint_port(left) != endpoint_port(right))
		return false;
	if (left->address.ss_family == AF_INET6)
		return memcmp(&six_left->sin6_addr, &six_right->sin6_addr,
			      sizeof(six_left->sin6_addr)) == 0;
	return ((const struct sockaddr_in *)&left->address)->sin_addr.s_addr ==
	       ((const struct sockaddr_in *)&right->address)->sin_addr.s_addr;
}

const char *endpoint_host(const struct endpoint *endpoint, char *text, size_t size)
{
	const struct sockaddr_in *four = (const struct sockaddr_in *)&endpoint->address;
	const struct sockaddr_in6 *six = (const struct sockaddr_in6 *)&endpoint->address;
	int family = endpoint->address.ss_family;
	const void *address = family == AF_INET ? (const void *)&four->sin_addr : &six->sin6_addr;

	if ((family != AF_INET && family != AF_INET6) ||
	    !inet_ntop(family, address, text, (socklen_t)size))
		strcpy(text, "");
	return text;
}

unsigned int interface_index(void)
{
	const char *name = option_text("interface", "lo");
	unsigned int index = if_nametoindex(name);

	if (!index)
		fail(name);
	return index;
}
