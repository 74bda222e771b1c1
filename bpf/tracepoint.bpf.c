// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
//
// The set of hooks "tracepoint": the begin and the end of bind(2). The kernel runs them for system calls of its own ABI only, not for
// those of 32-bit programs, and not for io_uring.
//
// The end tells the result, the begin the descriptor; at the end everything else is found by way of the descriptor. If another
// thread has closed or replaced it by then, there is no event.

#define SCRATCHES 1
#include "report.h"

// What the kernel hands over: /sys/kernel/tracing/events/syscalls/sys_enter_bind/format, and sys_exit_bind.

struct enter {
	u64 common;
	u64 number;
	u64 fd;
};

struct exit {
	u64 common;
	u64 number;
	s64 result;
};

// The descriptors of the threads that are in bind at this moment, by thread. Every bind that begins ends, so nothing is left
// over. More than 8192 at a time are counted as lost.
struct {
	map_uint(type, BPF_MAP_TYPE_HASH);
	map_uint(max_entries, 8192);
	map_type(key, u64);
	map_type(value, u32);
} binding SEC(".maps");

SEC("tracepoint/syscalls/sys_enter_bind")
int enter_bind(struct enter *ctx)
{
	u64 thread = bpf_get_current_pid_tgid();
	u32 fd = ctx->fd;

	if (bpf_map_update_elem(&binding, &thread, &fd, 0))
		count_loss();
	return 0;
}

SEC("tracepoint/syscalls/sys_exit_bind")
int exit_bind(struct exit *ctx)
{
	u64 thread = bpf_get_current_pid_tgid();
	u32 *found = bpf_map_lookup_elem(&binding, &thread);

	// A bind that began before the programs were there may end after the scan at start.
	if (!found) {
		if (ctx->result == 0)
			count_loss();
		return 0;
	}
	u32 fd = *found;
	bpf_map_delete_elem(&binding, &thread);

	if (ctx->result == 0)
		report_bind_fd(0, fd, ctx->result, VIA_NATIVE);
	return 0;
}

LICENSE;
