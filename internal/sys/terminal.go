package sys

import "golang.org/x/sys/unix"

// InForeground tells whether this process is in the foreground process group of its controlling terminal, to which the
// terminal sends SIGINT, SIGQUIT and SIGWINCH: tcgetpgrp(3). Without such a terminal it is not.
func InForeground() bool {
	fd, err := unix.Open("/dev/tty", unix.O_RDONLY|unix.O_NOCTTY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return false
	}
	defer func() { _ = unix.Close(fd) }()
	group, err := unix.IoctlGetInt(fd, unix.TIOCGPGRP)
	return err == nil && group == unix.Getpgrp()
}
