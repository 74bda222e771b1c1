//go:build ignore

/*
 * server: what is killed: a small server with one sock-file, which whoever is measured starts or is told of.
 *
 *   server PATH ADDRESS
 *
 * It binds PATH and listens. Then it connects to ADDRESS, a UNIX socket, by which who measures knows that it is there, and which pid
 * it has, SO_PEERCRED of unix(7). When that connection ends it removes PATH and ends. Killed, it leaves it.
 *
 * Build: gcc -O2 -Wall -Wextra -o server server.c. The first line keeps the go command from taking it for cgo.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

static _Noreturn void die(const char *what, const char *on)
{
	fprintf(stderr, "server: %s %s: %s\n", what, on, strerror(errno));
	exit(1);
}

static int unix_socket(const char *path, struct sockaddr_un *a)
{
	int s = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (s < 0)
		die("socket", path);
	*a = (struct sockaddr_un){.sun_family = AF_UNIX};
	if (strlen(path) >= sizeof a->sun_path) {
		errno = ENAMETOOLONG;
		die("bind", path);
	}
	strcpy(a->sun_path, path);
	return s;
}

int main(int argc, char **argv)
{
	struct sockaddr_un a;
	char c;
	int s, told;

	if (argc != 3) {
		fprintf(stderr, "usage: server PATH ADDRESS\n");
		return 2;
	}
	s = unix_socket(argv[1], &a);
	if (bind(s, (struct sockaddr *)&a, sizeof a) < 0)
		die("bind", argv[1]);
	if (listen(s, 16) < 0)
		die("listen", argv[1]);
	told = unix_socket(argv[2], &a);
	if (connect(told, (struct sockaddr *)&a, sizeof a) < 0)
		die("connect", argv[2]);
	if (read(told, &c, 1) < 0 && errno != ECONNRESET)
		die("read", argv[2]);
	if (unlink(argv[1]) < 0)
		die("unlink", argv[1]);
	return 0;
}
