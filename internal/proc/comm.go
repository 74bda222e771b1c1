package proc

import (
	"bytes"
	"errors"
)

// Comm reads /proc/PID/comm, the name of the process: up to 15 bytes of any value, of a kernel thread up to 63
// (proc_pid_comm(5)).
func (p FS) Comm(pid int) (string, error) {
	b, err := p.read(pid, "comm")
	if err != nil {
		return "", err
	}
	s, err := parseComm(b)
	return s, parseError(p.pidPath(pid, "comm"), err)
}

var errComm = errors.New("no newline at the end")

func parseComm(b []byte) (string, error) {
	// One newline is the kernel's, any before it are the process's own.
	name, ok := bytes.CutSuffix(b, []byte("\n"))
	if !ok {
		return "", errComm
	}
	return string(name), nil
}
