//go:build ignore
// Go would refuse a C file beside its own.

/*
 * Binds a sock-file, reports it to the watcher, and dies at once by SIGKILL:
 *
 *	report PATH [stay]
 *
 * With "stay" it sleeps instead, when it has reported. PATH is absolute.
 */
#include <signal.h>
#include <stdio.h>

#include <errno.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

/* 0, or -1 with errno set. EAGAIN: the queue stayed full. path is absolute. */
static int report_bind(const char *path)
{
	const char *watcher = getenv("SOCKWATCH_NOTIFY");
	size_t len = watcher ? strlen(watcher) : 0;
	struct sockaddr_un to = {.sun_family = AF_UNIX};
	struct timeval patience = {.tv_usec = 100000};
	struct iovec line[] = {{"BIND=", 5}, {(char *)path, strlen(path)}};
	struct msghdr msg = {.msg_name = &to, .msg_iov = line, .msg_iovlen = 2};

	if (len == 0)
		return 0; /* nobody watches */
	if (len > sizeof to.sun_path)
		return errno = ENAMETOOLONG, -1;
	memcpy(to.sun_path, watcher, len);
	if (to.sun_path[0] == '@')
		to.sun_path[0] = '\0'; /* the abstract namespace */
	msg.msg_namelen = offsetof(struct sockaddr_un, sun_path) + len;
	int s = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (s < 0)
		return -1;
	setsockopt(s, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
	int sent = sendmsg(s, &msg, MSG_NOSIGNAL) < 0 ? -1 : 0;
	int saved = errno;
	close(s);
	errno = saved;
	return sent;
}

static int bind_and_listen(const char *path)
{
	struct sockaddr_un at = {.sun_family = AF_UNIX};

	if (strlen(path) >= sizeof at.sun_path) {
		errno = ENAMETOOLONG;
		return -1;
	}
	strcpy(at.sun_path, path);
	int s = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (s < 0 || bind(s, (struct sockaddr *)&at, sizeof at) < 0)
		return -1;
	return listen(s, 8);
}

int main(int argc, char **argv)
{
	if (argc < 2) {
		fprintf(stderr, "usage: report PATH [stay]\n");
		return 2;
	}
	if (bind_and_listen(argv[1]) < 0 || report_bind(argv[1]) < 0) {
		perror(argv[1]);
		return 1;
	}
	if (argc < 3)
		kill(getpid(), SIGKILL);
	for (;;)
		pause();
}
