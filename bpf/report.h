// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
//
// What the programs have in common: making the event of a bind and sending it.

#ifndef REPORT_H
#define REPORT_H

#include "bpf.h"
#include "event.h"
#include "kernel.h"
#include "path.h"

#define AF_UNIX 1
#define SOCKFS_MAGIC 0x534f434b

// The way to the program that reads the events. The loader sets the size.
struct {
	map_uint(type, BPF_MAP_TYPE_RINGBUF);
	map_uint(max_entries, 1 << 20);
} events SEC(".maps");

// An event is larger than the 512 bytes of stack that a program has. It is made here: one for each processor and program. A
// program is not interrupted by itself: the kernel skips it then, and counts that (see Tracer.Drops).
struct {
	map_uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	map_uint(max_entries, SCRATCHES);
	map_type(key, u32);
	map_type(value, struct event);
} scratch SEC(".maps");

// How many events were lost. The reader looks at it through shared memory.
u64 lost;

// count_loss also tries to say so in the ring, lest the reader sleep on: either there is room and the message wakes it, or there is
// none because there are events that it has yet to read, and then it looks at the number after them.
static always_inline void count_loss(void)
{
	struct head message = {.kind = KIND_LOST};

	__sync_fetch_and_add(&lost, 1);
	bpf_ringbuf_output(&events, &message, sizeof(message), BPF_RB_FORCE_WAKEUP);
}

// write_process tells whose bind it is.
static always_inline void write_process(struct event *e, struct task_struct *task)
{
	struct task_struct *leader = read_kernel(task, group_leader);
	struct pid *pid = read_kernel(leader, thread_pid);
	struct cred *cred = read_kernel(task, cred);
	struct nsproxy *nsproxy = read_kernel(task, nsproxy);
	struct mnt_namespace *mnt_ns = read_kernel(nsproxy, mnt_ns);
	u64 id = bpf_get_current_pid_tgid();

	e->head.pid = id >> 32;
	e->tid = id;
	e->head.start = read_kernel(leader, start_boottime);
	e->head.pid_inode = has_member(struct pid, ino) ? read_kernel(pid, ino) : 0;
	e->cgroup = bpf_get_current_cgroup_id();
	e->uid = read_kernel(cred, uid.val);
	e->euid = read_kernel(cred, euid.val);
	e->mount_ns = read_kernel(mnt_ns, ns.inum);

	// The last of the numbers is that in the process's own namespace.
	struct upid *own = (void *)pid->numbers + read_kernel(pid, level) * kernel_size(struct upid);
	e->ns_pid = read_kernel(own, nr);
	struct pid_namespace *pid_ns = read_kernel(own, ns);
	e->pid_ns = read_kernel(pid_ns, ns.inum);

	bpf_probe_read_kernel_str(e->comm, sizeof(e->comm), leader->comm);
}

// write_raw tells the name that bind was given, which need not end with a NUL. The kernel's copy of the address does, where it
// has room for 109 bytes: the NUL is not sent.
static always_inline void write_raw(struct event *e, struct unix_sock *sk)
{
	struct unix_address *addr = read_kernel(sk, addr);
	u32 length = read_kernel(addr, len) - sizeof(unsigned short);

	if (length > SUN_PATH_SIZE)
		length = SUN_PATH_SIZE;
	e->head.raw_len = length;
	bpf_probe_read_kernel(e->raw, length, (void *)addr->name + sizeof(unsigned short));
}

// report_bind sends the event of a bind that the current thread has made, when it was one of an AF_UNIX socket to a pathname. It
// returns that event, or NULL.
static always_inline struct event *report_bind(u32 slot, struct sock *sk, struct file *file, s32 result, u8 via)
{
	struct unix_sock *unix_sk = (void *)sk;
	struct task_struct *task = bpf_get_current_task();

	if (read_kernel(sk, __sk_common.skc_family) != AF_UNIX)
		return NULL;
	// Abstract and autobound addresses have no file.
	struct dentry *dentry = read_kernel(unix_sk, path.dentry);
	if (!dentry)
		return NULL;

	struct event *e = bpf_map_lookup_elem(&scratch, &slot);
	if (!e) // never: the verifier wants to see it
		return NULL;

	struct inode *socket = read_kernel(file, f_inode);
	struct inode *inode = read_kernel(dentry, d_inode);
	struct super_block *sb = read_kernel(inode, i_sb);
	struct net *net = read_kernel(sk, __sk_common.skc_net.net);

	e->head.kind = KIND_BOUND;
	e->head.via = via;
	e->result = result;
	e->head.time = bpf_ktime_get_boot_ns();
	e->head.socket = read_kernel(socket, i_ino);
	e->head.inode = read_kernel(inode, i_ino);
	e->head.dev = read_kernel(sb, s_dev);
	e->net_ns = read_kernel(net, ns.inum);
	write_process(e, task);
	write_raw(e, unix_sk);
	write_path(e, &unix_sk->path, task);

	u64 size = __builtin_offsetof(struct event, path) + e->head.path_len;
	hide(size);
	if (size > sizeof(*e)) // never: as above
		return NULL;
	if (bpf_ringbuf_output(&events, e, size, 0))
		count_loss();
	return e;
}

// report_bind_file is report_bind for an open file, which may be no socket.
static always_inline void report_bind_file(u32 slot, struct file *file, s32 result, u8 via)
{
	struct inode *inode = read_kernel(file, f_inode);
	struct super_block *sb = read_kernel(inode, i_sb);

	if (read_kernel(sb, s_magic) != SOCKFS_MAGIC)
		return;
	struct socket *socket = read_kernel(file, private_data);
	report_bind(slot, read_kernel(socket, sk), file, result, via);
}

// report_bind_fd is report_bind for a descriptor of the current thread.
static always_inline void report_bind_fd(u32 slot, u32 fd, s32 result, u8 via)
{
	struct task_struct *task = bpf_get_current_task();
	struct files_struct *files = read_kernel(task, files);
	struct fdtable *table = read_kernel(files, fdt);
	struct file **descriptors = read_kernel(table, fd);
	struct file *file;

	if (fd >= read_kernel(table, max_fds))
		return;
	if (bpf_probe_read_kernel(&file, sizeof(file), &descriptors[fd]) || !file)
		return;
	report_bind_file(slot, file, result, via);
}

#endif
