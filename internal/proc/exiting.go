package proc

import (
	"bytes"
	"strconv"
)

// pfExiting is PF_EXITING of linux/sched.h.
const pfExiting = 0x4

// Exiting tells whether the process, or its main thread, has begun to end: flags of proc_pid_stat(5). The kernel says so
// before it closes the descriptors, and reports the end by a pidfd only after that.
func (p FS) Exiting(pid int) (bool, error) {
	b, err := p.read(pid, "stat")
	if err != nil {
		return false, err
	}
	exiting, err := parseExiting(b)
	return exiting, parseError(p.pidPath(pid, "stat"), err)
}

func parseExiting(b []byte) (bool, error) {
	// Behind the name, which may hold anything, come the fields from the third on; the flags are the ninth.
	fields := bytes.Fields(b[bytes.LastIndexByte(b, ')')+1:])
	if len(fields) < 7 {
		return false, errStat
	}
	flags, err := strconv.ParseUint(string(fields[6]), 10, 32)
	return flags&pfExiting != 0, err
}
