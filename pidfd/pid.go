package pidfd

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/sockwatch/sockwatch/internal/sys"
)

// PID returns the number of the process in our pid namespace: -1 once the process was reaped and the number may be
// another's, 0 when it has none here. -1 also after Close, and when the kernel does not tell.
func (p *Process) PID() int {
	pid := -1
	_ = p.use(func(fd int) error {
		if n, err := currentPID(fd); err == nil {
			pid = n
		}
		return nil
	})
	return pid
}

// currentPID returns the number of the process behind a pidfd, -1 when it was reaped, 0 when it has none in our pid
// namespace.
func currentPID(fd int) (int, error) {
	info, err := sys.PidfdInfo(fd, 0)
	if err == nil {
		return int(info.Pid), nil
	}
	// ESRCH is for the reaped and, in some kernels, for outsiders; others say EREMOTE for outsiders, also for reaped ones.
	// Only fdinfo tells them apart, proc_pid_fdinfo(5).
	if !infoUnsupported(err) && !errors.Is(err, unix.ESRCH) && !errors.Is(err, unix.EREMOTE) {
		return 0, err
	}
	b, err := os.ReadFile("/proc/thread-self/fdinfo/" + strconv.Itoa(fd))
	if err != nil {
		return 0, err
	}
	for line := range bytes.Lines(b) {
		if value, ok := bytes.CutPrefix(line, []byte("Pid:")); ok {
			return strconv.Atoi(string(bytes.TrimSpace(value)))
		}
	}
	return 0, fmt.Errorf("fdinfo without a pid: %w", unix.EBADF)
}

// infoUnsupported tells whether PIDFD_GET_INFO failed because the kernel does not have it.
func infoUnsupported(err error) bool {
	return errors.Is(err, unix.ENOTTY) || errors.Is(err, unix.EINVAL)
}
