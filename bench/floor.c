//go:build ignore

/*
 * floor: the floor that sockwatch is measured against.
 *
 * The same epoll, the same claims and the same removal as sockwatch's, written as straight-line C with nothing around them: what
 * is left is the price of the kernel. It is a measuring stick and no tool: it knows ordinary processes and local filesystems
 * only, and every system call that fails in another way than the protocol foresees ends it with a message.
 *
 *   floor watch N DIR          N children, each with a sock-file in DIR, watched. Every line on stdin is a number of samples to
 *                              take: kill one child, wait until its sock-file is gone, start another in its place. Ends at EOF.
 *   floor burst N DIR          N children watched, all killed in one go.
 *   floor guard DIR            every line on stdin is a process, its PID and the name of its sock-file in DIR: that is watched, and the
 *                              sock-file removed when the process has been killed, by somebody else. Ends at EOF.
 *   floor sweep DIR [THREADS]  removes the dead sock-files in DIR, as a sweep does.
 *   floor child PATH           the child of the first two: binds PATH, listens, writes a byte to stdout, blocks until stdin's
 *                              end, then removes PATH. Killed, it leaves it.
 *
 * Output is one JSON object per line. All times are nanoseconds of CLOCK_MONOTONIC since the program's start:
 *
 *   watch  {"watched":N} once all are watched, then {"kill_ns":.., "exit_event_ns":.., "gone_ns":..} per sample:
 *          before kill(2), after epoll_wait(2) returned with the exit, after the sock-file's last name was unlinked.
 *   guard  {} at the start; for each line {} once it is watched, and {} when the process was reaped, whose sock-file is gone by then.
 *   burst  {"watched":N}, then {"kill_ns":.., "killed_ns":.., "gone_ns":..}: before the first kill, after the last kill, after
 *          the last sock-file was unlinked.
 *   sweep  {"removed":.., "alive":.., "kept":.., "took_ns":..}: kept is what is a socket and neither: hard links, and sock-files
 *          replaced while the sweep looked at them.
 *
 * Build: gcc -O2 -Wall -Wextra -pthread -o floor floor.c. The first line keeps the go command from taking it for cgo.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <spawn.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define MAX_OWNERS 9000
#define MAX_EVENTS 256
#define BATCH 512 /* files that share one barrier in a sweep; each holds a descriptor meanwhile */
#define READY_TIMEOUT_MS 60000

/* name_to_handle_at(2) fills it in; handle_bytes is the room before the call and the length after it. */
union handle {
	struct file_handle h;
	char room[sizeof(struct file_handle) + MAX_HANDLE_SZ];
};

struct owner {
	pid_t pid;
	int pidfd;
	char name[16]; /* of its sock-file, in the one directory */
	dev_t dev;     /* dev and handle are the sock-file's identity */
	union handle id;
	int64_t exit_event, gone;
};

static int64_t start;
static const char *dir; /* all sock-files are in this one directory, */
static int bindspace;   /* which is held open */

/* ---- small things ---- */

static int64_t now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * INT64_C(1000000000) + t.tv_nsec - start;
}

/* die needs no cleaning up: the children see the end of their stdin, and each removes its own sock-file. */
static _Noreturn void die(const char *what, const char *on)
{
	fprintf(stderr, "floor: %s %s: %s\n", what, on, strerror(errno));
	exit(1);
}

static _Noreturn void die_because(const char *why, const char *on)
{
	fprintf(stderr, "floor: %s: %s\n", on, why);
	exit(1);
}

static uint64_t random64(void)
{
	static _Thread_local uint64_t x;
	if (x == 0 && getrandom(&x, sizeof x, 0) != sizeof x)
		die("getrandom", "");
	x ^= x << 13; /* xorshift: a private name has to be unused, not secret */
	x ^= x >> 7;
	x ^= x << 17;
	return x;
}

/* ---- the probe and the removal ---- */

static int probe_socket(void)
{
	int s = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (s < 0)
		die("socket", "(probe)");
	return s;
}

/* alive says whether any socket is bound to the pinned inode, which is a socket's. */
static bool alive(int probe, int pin, const char *name)
{
	struct sockaddr_un a = {.sun_family = AF_UNIX};
	int n = snprintf(a.sun_path, sizeof a.sun_path, "/proc/thread-self/fd/%d", pin);
	if (connect(probe, (struct sockaddr *)&a, offsetof(struct sockaddr_un, sun_path) + n + 1) == 0) {
		struct sockaddr none = {.sa_family = AF_UNSPEC};
		if (connect(probe, &none, sizeof none) < 0)
			die("disconnect", name);
		return true;
	}
	switch (errno) {
	case EPROTOTYPE:
	case EPERM:
		return true;
	case ECONNREFUSED:
		return false;
	}
	die("probe", name);
}

static int pin_open(const char *name)
{
	return openat(bindspace, name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
}

static void handle_of(int pin, const char *name, union handle *id)
{
	int mount;
	id->h.handle_bytes = MAX_HANDLE_SZ;
	if (name_to_handle_at(pin, "", &id->h, &mount, AT_EMPTY_PATH) < 0)
		die("name_to_handle_at", name);
}

static bool same_handle(const union handle *a, const union handle *b)
{
	return a->h.handle_type == b->h.handle_type && a->h.handle_bytes == b->h.handle_bytes &&
	       memcmp(a->h.f_handle, b->h.f_handle, a->h.handle_bytes) == 0;
}

/* is_pinned says whether name is the pinned inode at this moment. */
static bool is_pinned(const char *name, const struct stat *pinned)
{
	struct stat st;
	if (fstatat(bindspace, name, &st, AT_SYMLINK_NOFOLLOW) < 0) {
		if (errno == ENOENT)
			return false;
		die("fstatat", name);
	}
	return st.st_dev == pinned->st_dev && st.st_ino == pinned->st_ino;
}

/* unlink_pinned removes name if it is the pinned inode, which is dead for good, and nothing else ever. */
static bool unlink_pinned(int probe, int pin, const char *name, const struct stat *pinned)
{
	char private[sizeof ".sockwatch-00000"];

	if (!is_pinned(name, pinned))
		return false;
	for (;;) {
		snprintf(private, sizeof private, ".sockwatch-%05x", (unsigned)(random64() & 0xfffff));
		if (renameat2(bindspace, name, bindspace, private, RENAME_NOREPLACE) == 0)
			break;
		if (errno == ENOENT)
			return false;
		if (errno != EEXIST)
			die("renameat2", name);
	}
	if (is_pinned(private, pinned) && !alive(probe, pin, private)) {
		if (unlinkat(bindspace, private, 0) < 0)
			die("unlinkat", private);
		return true;
	}
	/* Somebody put another inode there between the look and the rename: it gets its name back. */
	if (renameat2(bindspace, private, bindspace, name, RENAME_NOREPLACE) < 0 && errno != EEXIST)
		die("rename back", private);
	return false;
}

/* remove_claim removes a sock-file that was seen alive before, and therefore needs no barrier. */
static void remove_claim(int probe, struct owner *o)
{
	struct stat st;
	union handle id;
	int pin = pin_open(o->name);

	if (pin < 0)
		die("open", o->name);
	if (fstat(pin, &st) < 0)
		die("fstat", o->name);
	handle_of(pin, o->name, &id);
	if (!S_ISSOCK(st.st_mode) || st.st_dev != o->dev || !same_handle(&id, &o->id))
		die_because("is not the sock-file that was claimed", o->name);
	if (alive(probe, pin, o->name))
		die_because("is alive after its owner's exit", o->name);
	if (!unlink_pinned(probe, pin, o->name, &st))
		die_because("was not there any more", o->name);
	o->gone = now();
	close(pin);
}

/* ---- the owners ---- */

static struct owner owners[MAX_OWNERS];
static int epfd;
static int ready[2]; /* children write a byte each when they listen */
static int stay[2];  /* the children's stdin: its end is the end of them */

static atomic_int left; /* things the watcher has still to do before it tells the driver */
static int done[2];

static void *watcher(void *unused)
{
	struct epoll_event ev[MAX_EVENTS];
	int probe = probe_socket();

	for (;;) {
		int n = epoll_wait(epfd, ev, MAX_EVENTS, -1);
		int64_t t = now();
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			die("epoll_wait", "");
		for (int i = 0; i < n; i++) {
			struct owner *o = ev[i].data.ptr;
			if (ev[i].events & EPOLLIN) {
				o->exit_event = t;
				remove_claim(probe, o);
				/* Silent until the process is reaped, then EPOLLHUP. */
				if (epoll_ctl(epfd, EPOLL_CTL_MOD, o->pidfd, &(struct epoll_event){.data.ptr = o}) < 0)
					die("EPOLL_CTL_MOD", o->name);
			} else {
				close(o->pidfd);
			}
			if (atomic_fetch_sub(&left, 1) == 1 && write(done[1], "", 1) != 1)
				die("write", "(done)");
		}
	}
	return unused;
}

static void await_watcher(void)
{
	char c;
	if (read(done[0], &c, 1) != 1)
		die("read", "(done)");
}

static void spawn(struct owner *o, const posix_spawn_file_actions_t *fds)
{
	extern char **environ;
	char path[sizeof((struct sockaddr_un *)0)->sun_path];
	char *argv[] = {"floor", "child", path, NULL};

	snprintf(o->name, sizeof o->name, "%d.sock", (int)(o - owners));
	if (snprintf(path, sizeof path, "%s/%s", dir, o->name) >= (int)sizeof path)
		die_because("is too long for a sock-file in it", dir);
	/* exec'ed, not only forked: the child's memory, and so its teardown, does not depend on ours. */
	errno = posix_spawn(&o->pid, "/proc/self/exe", fds, NULL, argv, environ);
	if (errno != 0)
		die("posix_spawn", path);
}

/* await_ready returns when n more children listen. */
static void await_ready(int n)
{
	struct pollfd p = {.fd = ready[0], .events = POLLIN};
	char buf[512];

	while (n > 0) {
		int r = poll(&p, 1, READY_TIMEOUT_MS);
		if (r == 0)
			die_because("a child never listened", dir);
		if (r > 0)
			r = read(ready[0], buf, n < (int)sizeof buf ? n : (int)sizeof buf);
		if (r < 0 && errno != EINTR)
			die("read", "(ready)");
		if (r > 0)
			n -= r;
	}
}

/* claim records the identity of the owner's sock-file, sees it alive, and watches the owner. */
static void claim(struct owner *o, int probe)
{
	struct stat st;
	struct epoll_event ev = {.events = EPOLLIN, .data.ptr = o};
	int pin = pin_open(o->name);

	if (pin < 0)
		die("open", o->name);
	if (fstat(pin, &st) < 0)
		die("fstat", o->name);
	if (!S_ISSOCK(st.st_mode) || !alive(probe, pin, o->name))
		die_because("is no live socket", o->name);
	o->dev = st.st_dev;
	handle_of(pin, o->name, &o->id);
	close(pin);
	o->pidfd = syscall(SYS_pidfd_open, o->pid, 0);
	if (o->pidfd < 0)
		die("pidfd_open", o->name);
	if (epoll_ctl(epfd, EPOLL_CTL_ADD, o->pidfd, &ev) < 0)
		die("EPOLL_CTL_ADD", o->name);
}

/* kill_all kills the n owners and returns when the watcher has removed their sock-files. */
static void kill_all(int n, int64_t *first, int64_t *last)
{
	atomic_store(&left, n);
	*first = now();
	for (int i = 0; i < n; i++)
		if (kill(owners[i].pid, SIGKILL) < 0)
			die("kill", owners[i].name);
	*last = now();
	await_watcher();
}

/* reap_all collects n dead children and returns when the watcher has let go of them. */
static void reap_all(struct owner *o, int n)
{
	atomic_store(&left, n);
	for (int i = 0; i < n; i++)
		if (waitpid(o[i].pid, NULL, 0) < 0)
			die("waitpid", o[i].name);
	await_watcher();
}

/* QUIET_NS passes before each kill of one, nothing happening: as in serve.go. */
#define QUIET_NS 5000000

static void sample(struct owner *o, int probe, const posix_spawn_file_actions_t *fds)
{
	struct timespec quiet = {.tv_nsec = QUIET_NS};
	int64_t killed;

	nanosleep(&quiet, NULL);
	atomic_store(&left, 1);
	killed = now();
	if (kill(o->pid, SIGKILL) < 0)
		die("kill", o->name);
	await_watcher();
	printf("{\"kill_ns\":%" PRId64 ",\"exit_event_ns\":%" PRId64 ",\"gone_ns\":%" PRId64 "}\n",
	       killed, o->exit_event, o->gone);
	reap_all(o, 1);
	spawn(o, fds);
	await_ready(1);
	claim(o, probe);
}

/* begin_watching starts the watcher, which has nothing to watch yet. */
static void begin_watching(void)
{
	pthread_t thread;

	epfd = epoll_create1(EPOLL_CLOEXEC);
	if (epfd < 0)
		die("epoll_create1", "");
	if (pipe2(done, O_CLOEXEC) < 0)
		die("pipe2", "");
	errno = pthread_create(&thread, NULL, watcher, NULL);
	if (errno != 0)
		die("pthread_create", "");
}

static void tell(void)
{
	puts("{}");
	fflush(stdout);
}

/* guard watches one process after the other that are not its children. */
static int guard(void)
{
	struct owner *o = &owners[0];
	int probe = probe_socket();
	char line[64];

	begin_watching();
	tell();
	while (fgets(line, sizeof line, stdin) != NULL) {
		if (sscanf(line, "%d %15s", &o->pid, o->name) != 2)
			die_because("is not a PID and a name", line);
		atomic_store(&left, 2); /* its exit, and its being reaped */
		claim(o, probe);
		tell();
		await_watcher();
		tell();
	}
	return 0;
}

static int watch(int n, bool burst)
{
	struct rlimit lim;
	posix_spawn_file_actions_t fds;
	int64_t first, last, gone = 0;
	int probe = probe_socket();

	if (getrlimit(RLIMIT_NOFILE, &lim) < 0)
		die("getrlimit", "");
	lim.rlim_cur = lim.rlim_max;
	if (setrlimit(RLIMIT_NOFILE, &lim) < 0)
		die("setrlimit", "");
	begin_watching();
	if (pipe2(ready, O_CLOEXEC) < 0 || pipe2(stay, O_CLOEXEC) < 0)
		die("pipe2", "");
	posix_spawn_file_actions_init(&fds);
	posix_spawn_file_actions_adddup2(&fds, stay[0], 0);
	posix_spawn_file_actions_adddup2(&fds, ready[1], 1);

	for (int i = 0; i < n; i++)
		spawn(&owners[i], &fds);
	await_ready(n);
	for (int i = 0; i < n; i++)
		claim(&owners[i], probe);
	printf("{\"watched\":%d}\n", n);
	fflush(stdout);

	if (!burst) {
		char line[32];
		while (fgets(line, sizeof line, stdin) != NULL) {
			for (int i = atoi(line); i > 0; i--)
				sample(&owners[random64() % n], probe, &fds);
			fflush(stdout);
		}
	}
	kill_all(n, &first, &last);
	for (int i = 0; i < n; i++)
		if (owners[i].gone > gone)
			gone = owners[i].gone;
	if (burst)
		printf("{\"kill_ns\":%" PRId64 ",\"killed_ns\":%" PRId64 ",\"gone_ns\":%" PRId64 "}\n", first, last, gone);
	reap_all(owners, n);
	return 0;
}

static int child(const char *path)
{
	struct sockaddr_un a = {.sun_family = AF_UNIX};
	char c;
	int s = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (s < 0)
		die("socket", path);
	if (strlen(path) >= sizeof a.sun_path)
		die_because("is too long", path);
	strcpy(a.sun_path, path);
	if (bind(s, (struct sockaddr *)&a, sizeof a) < 0)
		die("bind", path);
	if (listen(s, 16) < 0)
		die("listen", path);
	if (write(1, "", 1) != 1)
		die("write", "(ready)");
	if (read(0, &c, 1) < 0)
		die("read", "(stay)");
	if (unlink(path) < 0)
		die("unlink", path);
	return 0;
}

/* ---- the sweep ---- */

static char **names;
static int names_n;
static atomic_int next_batch;
static atomic_int removed, found_alive, kept;

static void barrier(void)
{
	char absent[sizeof ".sockwatch-barrier-0000000000000000"];

	snprintf(absent, sizeof absent, ".sockwatch-barrier-%016" PRIx64, random64());
	if (unlinkat(bindspace, absent, 0) == 0 || errno != ENOENT)
		die("barrier", dir);
}

static void sweep_batch(int probe, char **name, int n)
{
	int pin[BATCH];
	struct stat st[BATCH];
	bool dead = false;

	for (int i = 0; i < n; i++) {
		pin[i] = pin_open(name[i]);
		if (pin[i] < 0 && errno == ENOENT)
			continue;
		if (pin[i] < 0)
			die("open", name[i]);
		if (fstat(pin[i], &st[i]) < 0)
			die("fstat", name[i]);
		if (!S_ISSOCK(st[i].st_mode)) {
			/* not ours to count */
		} else if (st[i].st_nlink > 1) {
			kept++;
		} else if (alive(probe, pin[i], name[i])) {
			found_alive++;
		} else {
			dead = true;
			continue;
		}
		close(pin[i]);
		pin[i] = -1;
	}
	if (!dead)
		return;
	/* A file caught in the middle of its bind(2) probes dead: after the barrier that bind is over. */
	barrier();
	for (int i = 0; i < n; i++) {
		if (pin[i] < 0)
			continue;
		if (alive(probe, pin[i], name[i]))
			found_alive++;
		else if (unlink_pinned(probe, pin[i], name[i], &st[i]))
			removed++;
		else
			kept++;
		close(pin[i]);
	}
}

static void *sweeper(void *unused)
{
	int probe = probe_socket();

	for (;;) {
		int first = atomic_fetch_add(&next_batch, 1) * BATCH;
		if (first >= names_n)
			break;
		sweep_batch(probe, names + first, names_n - first < BATCH ? names_n - first : BATCH);
	}
	close(probe);
	return unused;
}

static void read_names(void)
{
	int room = 0;
	struct dirent *e;
	DIR *d = opendir(dir);

	if (d == NULL)
		die("opendir", dir);
	while ((errno = 0, e = readdir(d)) != NULL) {
		if (e->d_type != DT_SOCK && e->d_type != DT_UNKNOWN)
			continue;
		if (names_n == room) {
			room = room == 0 ? 1024 : 2 * room;
			names = realloc(names, room * sizeof *names);
			if (names == NULL)
				die("realloc", dir);
		}
		names[names_n] = strdup(e->d_name);
		if (names[names_n++] == NULL)
			die("strdup", dir);
	}
	if (errno != 0)
		die("readdir", dir);
	closedir(d);
}

static int sweep(int threads)
{
	pthread_t thread[64];
	int64_t t = now();

	read_names();
	for (int i = 0; i < threads; i++) {
		errno = pthread_create(&thread[i], NULL, sweeper, NULL);
		if (errno != 0)
			die("pthread_create", "");
	}
	for (int i = 0; i < threads; i++)
		pthread_join(thread[i], NULL);
	printf("{\"removed\":%d,\"alive\":%d,\"kept\":%d,\"took_ns\":%" PRId64 "}\n",
	       removed, found_alive, kept, now() - t);
	return 0;
}

/* ---- */

static _Noreturn void usage(void)
{
	fprintf(stderr, "usage: floor watch N DIR | burst N DIR | guard DIR | sweep DIR [THREADS] | child PATH   (N: 1-%d, THREADS: 1-64)\n",
		MAX_OWNERS);
	exit(2);
}

static int number(const char *s, int max)
{
	int n = atoi(s);
	if (n < 1 || n > max)
		usage();
	return n;
}

static void open_dir(const char *path)
{
	dir = path;
	bindspace = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (bindspace < 0)
		die("open", dir);
}

int main(int argc, char **argv)
{
	start = now();
	if (argc == 4 && (strcmp(argv[1], "watch") == 0 || strcmp(argv[1], "burst") == 0)) {
		int n = number(argv[2], MAX_OWNERS);
		open_dir(argv[3]);
		return watch(n, argv[1][0] == 'b');
	}
	if (argc == 3 && strcmp(argv[1], "guard") == 0) {
		open_dir(argv[2]);
		return guard();
	}
	if ((argc == 3 || argc == 4) && strcmp(argv[1], "sweep") == 0) {
		int threads = argc == 4 ? number(argv[3], 64) : 1;
		open_dir(argv[2]);
		return sweep(threads);
	}
	if (argc == 3 && strcmp(argv[1], "child") == 0)
		return child(argv[2]);
	usage();
}
