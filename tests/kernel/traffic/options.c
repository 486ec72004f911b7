// SPDX-License-Identifier: Apache-2.0
/* The command line's key=value pairs. */
#include "traffic.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* More than any scenario takes. */
#define OPTIONS_MAX 64

static const char *const keys[] = {
	"batch",   "bind",	"broadcast", "buffer",	    "busy", "bytes",  "child_bytes",
	"closing", "connected", "count",     "deadline_ms", "exec", "expect", "fd",
	"gro",	   "group",	"gso",	     "hdrincl",	    "hold", "host",   "interface",
	"ktls",	   "maxseg",	"mode",	     "next",	    "path", "port",   "ports",
	"proto",   "reset",	"room",	     "receive_via", "size", "start",  "threads",
	"to",	   "type",	"unlink",    "via",
};

static struct {
	char *key, *value;
} options[OPTIONS_MAX];
static int count;

static bool known(const char *key)
{
	for (size_t i = 0; i < sizeof(keys) / sizeof(keys[0]); i++)
		if (strcmp(keys[i], key) == 0)
			return true;
	return false;
}

void options_parse(int argc, char **argv)
{
	for (int i = 0; i < argc; i++) {
		/* A copy: rename-argv overwrites the original. */
		char *key = strdup(argv[i]);
		char *equals = key ? strchr(key, '=') : NULL;

		if (!equals)
			fail_usage("not key=value", argv[i]);
		*equals = '\0';
		if (!known(key))
			fail_usage("unknown option", key);
		if (count == OPTIONS_MAX)
			fail_usage("too many options", key);
		options[count].key = key;
		options[count++].value = equals + 1;
	}
}

const char *option_text(const char *key, const char *otherwise)
{
	/* The last one wins: exec= appends its fd=. */
	for (int i = count - 1; i >= 0; i--)
		if (strcmp(options[i].key, key) == 0)
			return options[i].value;
	return otherwise;
}

bool option_given(const char *key)
{
	return option_text(key, NULL) != NULL;
}

uint64_t option_number(const char *key, uint64_t otherwise)
{
	const char *text = option_text(key, NULL);
	uint64_t number;
	char *end;

	if (!text)
		return otherwise;
	errno = 0;
	number = strtoull(text, &end, 0);
	if (errno || end == text || *end || *text == '-')
		fail_usage("not a number", key);
	return number;
}
