package records

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

const lockName = "lock"

// LockedError says that a directory of records is in use.
type LockedError struct {
	// PID is the process that has it, by its own pid namespace; 0 in the moment before it has said so. While one daemon takes over
	// from one that was killed, it can be the pid of that.
	PID int
}

func (e *LockedError) Error() string {
	if e.PID == 0 {
		return "in use by another daemon"
	}
	return fmt.Sprintf("in use by another daemon, pid %d", e.PID)
}

// takeLock locks a directory of records for as long as the file is open, so no longer than this process lives: flock(2). Who
// has the lock is for the kernel to say; the pid in the file is for people.
func takeLock(root *os.Root) (*os.File, error) {
	if err := at("record/lock", lockName); err != nil {
		return nil, err
	}
	f, err := root.OpenFile(lockName, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	switch {
	case err == nil:
		err = writePID(f)
	case errors.Is(err, unix.EWOULDBLOCK):
		err = &LockedError{readPID(f)}
	default:
		err = fmt.Errorf("%s: %w", lockName, os.NewSyscallError("flock", err))
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// writePID writes before it truncates, so that who reads meanwhile finds a whole first line.
func writePID(f *os.File) error {
	line := strconv.Itoa(os.Getpid()) + "\n"
	if _, err := f.WriteAt([]byte(line), 0); err != nil {
		return err
	}
	return f.Truncate(int64(len(line)))
}

// readPID returns 0 when the file has none.
func readPID(f *os.File) int {
	b, err := io.ReadAll(io.LimitReader(f, 32))
	line, _, whole := strings.Cut(string(b), "\n")
	pid, notNumber := strconv.ParseUint(line, 10, 31)
	if err != nil || !whole || notNumber != nil {
		return 0
	}
	return int(pid)
}
