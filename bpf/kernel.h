// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
//
// The kernel's structs, with those members only that the programs read.
//
// Order and offsets here mean nothing. The compiler notes for every access which member of which struct it is
// (preserve_access_index), and the loader finds that member by name in the running kernel's type information,
// /sys/kernel/btf/vmlinux, and puts its offset there into the program. So one program serves every kernel (CO-RE).
// A member that only some kernels have is asked for with has_member, see bpf.h.

#ifndef KERNEL_H
#define KERNEL_H

#include "types.h"

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

// Namespaces: each has a ns_common, and that has the inode number of /proc/PID/ns.

struct ns_common {
	unsigned int inum;
};

struct mnt_namespace {
	struct ns_common ns;
};

struct pid_namespace {
	struct ns_common ns;
};

struct net {
	struct ns_common ns;
};

struct nsproxy {
	struct mnt_namespace *mnt_ns;
};

// Files.

struct super_block {
	u32 s_dev;
	unsigned long s_magic;
};

struct inode {
	struct super_block *i_sb;
	unsigned long i_ino;
};

struct qstr {
	const unsigned char *name;
};

// A name in a directory. The root of a filesystem is its own parent.
struct dentry {
	struct dentry *d_parent;
	struct qstr d_name;
	struct inode *d_inode;
};

struct vfsmount {
	struct dentry *mnt_root;
};

// A mount: the vfsmount in it, and the place where it is mounted. The topmost one is its own parent.
struct mount {
	struct mount *mnt_parent;
	struct dentry *mnt_mountpoint;
	struct vfsmount mnt;
};

struct path {
	struct vfsmount *mnt;
	struct dentry *dentry;
};

struct file {
	struct inode *f_inode;
	void *private_data; // of a socket: its struct socket
};

struct fdtable {
	unsigned int max_fds;
	struct file **fd;
};

struct files_struct {
	struct fdtable *fdt;
};

// Sockets. A struct unix_sock begins with its struct sock.

typedef struct {
	struct net *net;
} possible_net_t;

struct sock_common {
	unsigned short skc_family;
	possible_net_t skc_net;
};

struct sock {
	struct sock_common __sk_common;
};

struct socket {
	struct file *file;
	struct sock *sk;
};

struct sockaddr_un {
	char sun_path[108];
};

struct unix_address {
	int len; // of the address: two bytes of family, then the name
	struct sockaddr_un name[];
};

struct unix_sock {
	struct sock sk;
	struct unix_address *addr;
	struct path path; // of the sock-file; all zero for a socket that is not bound to one
};

// Processes. Every thread is a task_struct; the first one of the process is the others' group_leader.

struct upid {
	int nr;
	struct pid_namespace *ns;
};

// The numbers of a process, one for each pid namespace from the initial one (0) down to its own (level).
struct pid {
	unsigned int level;
	u64 ino; // Linux 6.9
	struct upid numbers[];
};

struct fs_struct {
	struct path root;
};

typedef struct {
	unsigned int val;
} kuid_t;

struct cred {
	kuid_t uid;
	kuid_t euid;
};

struct thread_info {
	unsigned long flags;
#if defined(__TARGET_ARCH_x86)
	u32 status;
#endif
};

struct task_struct {
	struct thread_info thread_info;
	unsigned int flags;
	struct task_struct *group_leader;
	u64 start_boottime;
	struct pid *thread_pid;
	struct cred *cred;
	char comm[16];
	struct fs_struct *fs;
	struct files_struct *files;
	struct nsproxy *nsproxy;
};

// What a thread had in its registers when it entered the kernel.
struct pt_regs {
#if defined(__TARGET_ARCH_x86)
	unsigned long bx;
	unsigned long cx;
	unsigned long di;
	unsigned long orig_ax; // number of the system call
#elif defined(__TARGET_ARCH_arm64)
	u64 orig_x0;   // first argument; the result has taken the register's place
	s32 syscallno; // number of the system call
#endif
};

// A request of io_uring.

struct io_cqe {
	s32 res;
};

struct io_kiocb {
	struct file *file;
	u8 opcode;
	struct io_cqe cqe;
};

#pragma clang attribute pop

// The values are the loader's to fill in, as the offsets above are.
enum io_uring_op {
	IORING_OP_BIND = 56,
};

enum bpf_func_id {
	BPF_FUNC_task_pt_regs = 175,
};

#endif
