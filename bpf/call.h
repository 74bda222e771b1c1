// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
//
// Which system call the current thread is in, by the registers it came with.

#ifndef CALL_H
#define CALL_H

#include "bpf.h"
#include "event.h"
#include "kernel.h"

#if defined(__TARGET_ARCH_x86)

#define NATIVE_BIND 49        // asm/unistd_64.h
#define COMPAT_BIND 361       // asm/unistd_32.h
#define COMPAT_SOCKETCALL 102 // asm/unistd_32.h: many calls in one, the first argument tells which
#define SYS_BIND 2            // linux/net.h
#define TS_COMPAT 2           // asm/thread_info.h

#define CALL_NUMBER orig_ax

static always_inline int is_compat(struct task_struct *task)
{
	return read_kernel(task, thread_info.status) & TS_COMPAT;
}

#elif defined(__TARGET_ARCH_arm64)

#define NATIVE_BIND 200 // asm-generic/unistd.h
#define COMPAT_BIND 282 // arch/arm/tools/syscall.tbl
#define TIF_32BIT 22    // asm/thread_info.h

#define CALL_NUMBER syscallno

static always_inline int is_compat(struct task_struct *task)
{
	return read_kernel(task, thread_info.flags) >> TIF_32BIT & 1;
}

#endif

// may_be_bind lets go what no ABI calls a bind.
static always_inline int may_be_bind(u32 number)
{
#if defined(__TARGET_ARCH_x86)
	if (number == COMPAT_SOCKETCALL)
		return 1;
#endif
	return number == NATIVE_BIND || number == COMPAT_BIND;
}

// bind_call is how the system call is a bind, 0 when it is another one. The numbers of the two ABIs mean different calls.
static always_inline u8 bind_call(struct pt_regs *regs, struct task_struct *task)
{
	u32 number = read_kernel(regs, CALL_NUMBER);

	if (number == NATIVE_BIND)
		return is_compat(task) ? 0 : VIA_NATIVE;
	if (number == COMPAT_BIND)
		return is_compat(task) ? VIA_COMPAT : 0;
#if defined(__TARGET_ARCH_x86)
	if (number == COMPAT_SOCKETCALL)
		return is_compat(task) && (u32)read_kernel(regs, bx) == SYS_BIND ? VIA_COMPAT : 0;
#endif
	return 0;
}

// bind_fd is the first argument of a call that bind_call said is one. It is 0, on the descriptor 0 or because
// the memory with the arguments of socketcall could not be read.
static always_inline u32 bind_fd(struct pt_regs *regs)
{
#if defined(__TARGET_ARCH_x86)
	u32 number = read_kernel(regs, CALL_NUMBER);
	u32 fd = 0;

	if (number == NATIVE_BIND)
		return read_kernel(regs, di);
	if (number == COMPAT_BIND)
		return read_kernel(regs, bx);
	bpf_probe_read_user(&fd, sizeof(fd), (void *)(u64)(u32)read_kernel(regs, cx));
	return fd;
#elif defined(__TARGET_ARCH_arm64)
	return read_kernel(regs, orig_x0);
#endif
}

#endif
