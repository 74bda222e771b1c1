#include "textflag.h"

DATA ·hookPC(SB)/8, $·hook(SB)
GLOBL ·hookPC(SB), NOPTR, $8

// The kernel calls it: DI is the signal, SI its siginfo_t (si_code at 8, si_pid at 16), DX the context. It is left by a jump to the
// runtime's handler with all that unchanged, or by RET to where the kernel gets the registers back. The stack stays as it is.
TEXT ·hook(SB), NOSPLIT|NOFRAME, $0
	CMPL	8(SI), $0	// above 0 it comes from the kernel: SI_KERNEL, or the code of a fault
	JGT	kernel
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
	MOVL	$1, AX	// write(2)
	MOVL	·wake(SB), DI
	LEAQ	·one(SB), SI
	MOVL	$8, DX
	SYSCALL
	RET
go:
	MOVQ	·next(SB), AX
	JMP	AX
