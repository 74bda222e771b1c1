//go:build ignore

/*
 * sweep: the sock-files that sweeps are measured with.
 *
 *   sweep dead N DIR NAME      makes N dead sock-files, DIR/NAME0.sock and so on.
 *   sweep live N DIR NAME      the same with a listener each, until stdin's end.
 *   sweep relative N DIR NAME  listeners that were bound by a relative name, as servers do that change into their directory first. The
 *                              kernel shows such a name as it was given: /proc/net/unix does not say where it is.
 *
 * The last two print a line of {} when all listen. They leave their sock-files.
 *
 * Build: gcc -O2 -Wall -Wextra -o sweep sweep.c. The first line keeps the go command from taking it for cgo.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

static _Noreturn void die(const char *what, const char *on)
{
	fprintf(stderr, "sweep: %s %s: %s\n", what, on, strerror(errno));
	exit(1);
}

static int bound(const char *dir, const char *name, int i)
{
	struct sockaddr_un a = {.sun_family = AF_UNIX};
	int s = socket(AF_UNIX, SOCK_STREAM, 0);

	if (s < 0)
		die("socket", name);
	if (snprintf(a.sun_path, sizeof a.sun_path, "%s%s%d.sock", dir, name, i) >= (int)sizeof a.sun_path) {
		errno = ENAMETOOLONG;
		die("bind", dir);
	}
	if (bind(s, (struct sockaddr *)&a, sizeof a) < 0)
		die("bind", a.sun_path);
	return s;
}

int main(int argc, char **argv)
{
	struct rlimit files;
	char dir[sizeof((struct sockaddr_un *)0)->sun_path] = "";
	char c;
	int n = argc == 5 ? atoi(argv[2]) : 0;

	if (n < 1) {
		fprintf(stderr, "usage: sweep dead|live|relative N DIR NAME\n");
		return 2;
	}
	if (strcmp(argv[1], "relative") == 0) {
		if (chdir(argv[3]) < 0)
			die("chdir", argv[3]);
	} else if (snprintf(dir, sizeof dir, "%s/", argv[3]) >= (int)sizeof dir) {
		errno = ENAMETOOLONG;
		die("bind", argv[3]);
	}
	if (strcmp(argv[1], "dead") == 0) {
		for (int i = 0; i < n; i++)
			close(bound(dir, argv[4], i));
		return 0;
	}
	if (getrlimit(RLIMIT_NOFILE, &files) < 0)
		die("getrlimit", "");
	files.rlim_cur = files.rlim_max;
	if (setrlimit(RLIMIT_NOFILE, &files) < 0)
		die("setrlimit", "");
	for (int i = 0; i < n; i++)
		if (listen(bound(dir, argv[4], i), 16) < 0)
			die("listen", argv[4]);
	puts("{}");
	fflush(stdout);
	if (read(0, &c, 1) < 0)
		die("read", "(stdin)");
	return 0;
}
