//go:build ignore

/*
 * loop: system calls in a loop, which times itself: alone, and while somebody traces.
 *
 *   loop PATH
 *
 * Every line on stdin is what to do how often: "getppid N", the cheapest system call there is; "bind N": socket, bind to PATH,
 * close, unlink; "paced N", the same with half a millisecond of computing before each, in which who is told of binds can get back to
 * waiting. It ends at EOF.
 *
 * Output is one JSON object per line: {} at the start, then {"took_ns":..} per line read: of the system calls alone.
 *
 * Build: gcc -O2 -Wall -Wextra -o loop loop.c. The first line keeps the go command from taking it for cgo.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <inttypes.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#define PACE_NS 500000

static struct sockaddr_un address = {.sun_family = AF_UNIX};

static int64_t now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * INT64_C(1000000000) + t.tv_nsec;
}

static _Noreturn void die(const char *what)
{
	fprintf(stderr, "loop: %s %s: %s\n", what, address.sun_path, strerror(errno));
	exit(1);
}

static int64_t getppids(int n)
{
	int64_t begin = now();

	while (n-- > 0)
		syscall(SYS_getppid);
	return now() - begin;
}

static int64_t binds(int n)
{
	int64_t begin = now();

	while (n-- > 0) {
		int s = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
		if (s < 0)
			die("socket");
		if (bind(s, (struct sockaddr *)&address, sizeof address) < 0)
			die("bind");
		if (close(s) < 0)
			die("close");
		if (unlink(address.sun_path) < 0)
			die("unlink");
	}
	return now() - begin;
}

/* The waiting does not sleep: after a sleep everything is slower, whoever traces. The clock is no system call. */
static int64_t paced_binds(int n)
{
	int64_t took = 0;

	while (n-- > 0) {
		for (int64_t begin = now(); now() - begin < PACE_NS;)
			;
		took += binds(1);
	}
	return took;
}

int main(int argc, char **argv)
{
	char kind[16];
	int n;

	if (argc != 2 || strlen(argv[1]) >= sizeof address.sun_path) {
		fprintf(stderr, "usage: loop PATH\n");
		return 2;
	}
	strcpy(address.sun_path, argv[1]);
	setvbuf(stdout, NULL, _IOLBF, 0);
	puts("{}");
	while (scanf("%15s %d", kind, &n) == 2) {
		int64_t (*calls)(int) = strcmp(kind, "getppid") == 0 ? getppids : strcmp(kind, "bind") == 0 ? binds : paced_binds;
		printf("{\"took_ns\":%" PRId64 "}\n", calls(n));
	}
	return 0;
}
