#include "textflag.h"

DATA ·hookPC(SB)/8, $·hook(SB)
GLOBL ·hookPC(SB), NOPTR, $8

// The kernel calls it: DI is the signal, SI its siginfo_t (si_code at 8, si_pid at 16), DX the context. It is left by a jump to the
// runtime's handler with all that unchanged, or by RET to where the kernel gets the registers back. The stack stays as it is.
TEXT ·hook(SB), NOSPLIT|NOFRAME, $0
	CMPL	8(SI), $0	// above 0 it comes from the kernel: SI_KERNEL, or the code of a fault
	JGT	kernel
	CMPL	8(SI), $-2	// SI_TIMER, of the runtime's profiler
	JEQ	go
	MOVL	16(SI), AX
	CMPL	AX, ·self(SB)
	JEQ	go
	LEAQ	·sent(SB), AX
	JMP	count
kernel:
	MOVQ	·faults(SB), AX
	BTQ	DI, AX
	JCS	go
	LEAQ	·kernel(SB), AX
count:
	LOCK
	INCL	(AX)(DI*4)
	MOVQ	DI, R8	// the system call spoils AX, CX and R11
	MOVQ	SI, R9
	MOVQ	DX, R10
	MOVL	$1, AX	// write(2)
	MOVL	·wake(SB), DI
	LEAQ	·one(SB), SI
	MOVL	$8, DX
	SYSCALL
	CMPL	R8, $23	// SIGURG may be the scheduler's: without RLIMIT_SIGPENDING to spare the kernel leaves out who sent it
	JEQ	urgent
	RET
urgent:
	MOVQ	R8, DI
	MOVQ	R9, SI
	MOVQ	R10, DX
go:
	MOVQ	·next(SB), AX
	JMP	AX
