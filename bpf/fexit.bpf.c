// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
//
// The set of hooks "fexit": the end of the kernel function unix_bind, through which every bind of an AF_UNIX socket goes, and the
// begin of unix_release_sock, with which every such socket ends. Other system calls are not touched.
//
// An accepted socket has the path of its listener, and its death means nothing. So the sockets that were bound are tagged, and
// the death of a tagged one is told.

#define SCRATCHES 1
#include "call.h"
#include "report.h"

// What was told of a socket's bind, to tell of its death. It lives with the socket.
struct {
	map_uint(type, BPF_MAP_TYPE_SK_STORAGE);
	map_uint(map_flags, BPF_F_NO_PREALLOC);
	map_type(key, int);
	map_type(value, struct head);
} tags SEC(".maps");

// via_of is how the current thread called bind. Requests of io_uring are worked off in threads made for that, and at the end of
// whatever system call.
static always_inline u8 via_of(struct task_struct *task)
{
	// Without the function (before Linux 5.15) there is no bind by io_uring either (6.11).
	if (!enum_has(enum bpf_func_id, BPF_FUNC_task_pt_regs))
		return is_compat(task) ? VIA_COMPAT : VIA_NATIVE;
	struct pt_regs *regs = bpf_task_pt_regs(task);
	u8 via = bind_call(regs, task);
	return via ? via : VIA_IO_URING;
}

// int unix_bind(struct socket *sock, struct sockaddr *addr, int len), and its result behind the arguments.
SEC("fexit/unix_bind")
int bound(u64 *ctx)
{
	struct socket *socket = (void *)ctx[0];
	s32 result = ctx[3];

	if (result)
		return 0;
	struct sock *sk = socket->sk;
	struct event *e = report_bind(0, sk, socket->file, result, via_of(bpf_get_current_task_btf()));
	if (!e || !sk)
		return 0;

	if (!bpf_sk_storage_get(&tags, sk, &e->head, BPF_LOCAL_STORAGE_GET_F_CREATE))
		count_loss();
	return 0;
}

// void unix_release_sock(struct sock *sk, int embrion)
SEC("fentry/unix_release_sock")
int closing(u64 *ctx)
{
	struct sock *sk = (void *)ctx[0];
	struct head *tag = bpf_sk_storage_get(&tags, sk, NULL, 0);

	if (!tag)
		return 0;
	struct head message = *tag;
	message.kind = KIND_CLOSED;
	message.time = bpf_ktime_get_boot_ns();
	if (bpf_ringbuf_output(&events, &message, sizeof(message), 0))
		count_loss();
	return 0;
}

LICENSE;
