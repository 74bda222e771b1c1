#include "textflag.h"

DATA ·hookPC(SB)/8, $·hook(SB)
GLOBL ·hookPC(SB), NOPTR, $8

// The kernel calls it: DI is the signal, SI its siginfo_t (si_code at 8, si_pid at 16), DX the context. Only registers
// that a handler may spoil are used, and the stack stays as it is.
TEXT ·hook(SB), NOSPLIT|NOFRAME, $0
	CMPL	8(SI), $0	// above 0 it comes from the kernel: SI_KERNEL
	JGT	go
	MOVL	16(SI), AX
	CMPL	AX, ·self(SB)
	JEQ	go
	LEAQ	·sent(SB), AX
	LOCK
	INCL	(AX)(DI*4)
go:
	MOVQ	·next(SB), AX
	JMP	AX
