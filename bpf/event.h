// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
//
// The event: what the programs in this directory say, and package ebpf reads (ebpf/decode.go has the same layout in Go, and a test
// that compares the two). Members are in an order that needs no padding
// within.

#ifndef EVENT_H
#define EVENT_H

#include "types.h"

// What happened.
enum kind {
	KIND_BOUND = 1,  // a socket was bound to a pathname
	KIND_CLOSED = 2, // such a socket is about to go
	KIND_LOST = 3,   // an event was lost
};

// How bind was called.
enum via {
	VIA_NATIVE = 1,   // the system call of the kernel's own ABI
	VIA_COMPAT = 2,   // one of the 32-bit ABI
	VIA_IO_URING = 3, // a request of io_uring
};

enum flag {
	FLAG_TRUNCATED = 1 << 0, // the way up was too long to come to the process's root directory
	FLAG_OUTSIDE = 1 << 1,   // it did not lead through the process's root directory
	FLAG_TOP = 1 << 2,       // it came to the root of the mount namespace
};

#define COMM_SIZE 16     // TASK_COMM_LEN, with the NUL
#define SUN_PATH_SIZE 108 // of sockaddr_un.sun_path: unix(7)
#define NAME_SIZE 256    // the longest name in a directory, with the NUL
#define PATH_SIZE 4096   // PATH_MAX

// The begin of every message, and all of one that is not KIND_BOUND.
struct head {
	u8 kind, via, flags;
	u8 raw_len;    // bytes in raw
	u32 path_len;  // bytes in path
	u64 time;      // CLOCK_BOOTTIME, nanoseconds
	u64 socket;    // inode number of the socket itself
	u64 inode;     // and of the sock-file
	u64 pid_inode; // of the process in pidfs; 0 before Linux 6.9
	u64 start;     // of the process, CLOCK_BOOTTIME, nanoseconds
	u32 dev;       // of the sock-file's superblock, major<<20 | minor
	u32 pid;       // of the process (tgid) in the initial pid namespace
};

struct event {
	struct head head;
	u64 cgroup;    // id of the cgroup (cgroup2)
	u32 tid;       // of the thread
	u32 ns_pid;    // of the process in its own pid namespace
	u32 uid, euid; // in the initial user namespace
	u32 mount_ns, pid_ns, net_ns; // inode numbers; net_ns is the socket's
	s32 result;    // of bind
	u32 root_len;  // bytes of path below the process's root directory: all, unless that is not the mount namespace's
	char comm[COMM_SIZE];
	char raw[SUN_PATH_SIZE]; // the name that bind was given
	// The elements of the path from the root of the mount namespace, each with a NUL, the last one of the path first. Only
	// path_len bytes of it are sent. The part beyond PATH_SIZE lets the last name that is written begin before PATH_SIZE and end
	// after it.
	char path[PATH_SIZE + NAME_SIZE];
};

#endif
