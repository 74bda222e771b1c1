#include "textflag.h"

DATA ·hookPC(SB)/8, $·hook(SB)
GLOBL ·hookPC(SB), NOPTR, $8

// The kernel calls it: R0 is the signal, R1 its siginfo_t (si_code at 8, si_pid at 16), R2 the context. It is left by a jump to the
// runtime's handler with all that unchanged, or by RET to where the kernel gets the registers back. The stack stays as it is.
TEXT ·hook(SB), NOSPLIT|NOFRAME, $0
	MOVW	8(R1), R3
	CMPW	$0, R3	// above 0 it comes from the kernel: SI_KERNEL, or the code of a fault
	BGT	kernel
	CMPW	$-2, R3	// SI_TIMER, of the runtime's profiler
	BEQ	go
	MOVWU	16(R1), R3
	MOVWU	·self(SB), R4
	CMPW	R4, R3
	BEQ	go
	MOVD	$·sent(SB), R3
	B	count
kernel:
	MOVD	·faults(SB), R3
	LSR	R0, R3, R3
	TBNZ	$0, R3, go
	MOVD	$·kernel(SB), R3
count:
	ADD	R0<<2, R3, R3
again:
	LDAXRW	(R3), R4
	ADDW	$1, R4, R4
	STLXRW	R4, (R3), R5
	CBNZ	R5, again
	MOVD	R0, R9	// the system call spoils R0
	MOVD	R1, R10
	MOVD	R2, R11
	MOVWU	·wake(SB), R0
	MOVD	$·one(SB), R1
	MOVD	$8, R2
	MOVD	$64, R8	// write(2)
	SVC
	CMP	$23, R9	// SIGURG may be the scheduler's: without RLIMIT_SIGPENDING to spare the kernel leaves out who sent it
	BEQ	urgent
	RET
urgent:
	MOVD	R9, R0
	MOVD	R10, R1
	MOVD	R11, R2
go:
	MOVD	·next(SB), R3
	B	(R3)
