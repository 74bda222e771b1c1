// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
//
// The set of hooks "sys_exit": the end of every system call, of which nearly all are let go at the first comparison, and the
// completion of every request of io_uring, likewise. It sees what "fexit" does where that is not allowed, but for the
// sockets' deaths.
//
// The descriptor is looked up after the bind. If another thread has closed or replaced it by then, there is no event.

#define SCRATCHES 2
#include "call.h"
#include "report.h"

// What the kernel hands over: the registers that the thread came with, and the result.
SEC("tp_btf/sys_exit")
int exit_call(u64 *ctx)
{
	struct pt_regs *regs = (void *)ctx[0];
	s64 result = ctx[1];
	u32 number = regs->CALL_NUMBER;

	if (!may_be_bind(number) || result)
		return 0;
	u8 via = bind_call(regs, bpf_get_current_task());
	if (via)
		report_bind_fd(0, bind_fd(regs), result, via);
	return 0;
}

// Its arguments are the ring, the request, and others that were not the same in all kernels. The thread is one of the process that made
// the request, but not always the one that did. The loader leaves the program out where there is no IORING_OP_BIND.
SEC("tp_btf/io_uring_complete")
int complete_request(u64 *ctx)
{
	struct io_kiocb *request = (void *)ctx[1];

	if (!request || read_kernel(request, opcode) != enum_value(enum io_uring_op, IORING_OP_BIND))
		return 0;
	s32 result = read_kernel(request, cqe.res);
	if (result == 0)
		report_bind_file(1, read_kernel(request, file), result, VIA_IO_URING);
	return 0;
}

LICENSE;
