package reap

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/sockwatch/sockwatch/internal/proc"
	"github.com/sockwatch/sockwatch/pidfd"
)

// Held is the snapshot: it opens the sock-files of all sockets that are bound and that the process has open at this moment,
// each file once. Who is going to kill a process calls it before. A file whose socket was found alive counts as seen alive.
//
// The kernel is asked for the very file of a socket, through a copy of the descriptor (pidfd_getfd(2), ioctl SIOCUNIXFILE).
// That finds it in every namespace and under every name, and needs PTRACE_MODE_ATTACH over the process and
// CAP_NET_ADMIN over its network namespace. Else the kernel's socket table gives the name that bind(2) was given and a part of the
// inode number: the name is tried in the root and the working directory of the process, then a relative one in dirs, such as
// the directory in which the process was started. What is not there any more is looked for, by the inode number,
// in those same directories and in dirs. Of sockets in another network namespace the table tells nothing.
//
// A File's path is absolute and leads to it from our root directory where there is such a path. Else it begins with
// /proc/PID/root and is valid as long as the process lives; the File itself, which has its directory open, for longer.
//
// A file that was unlinked while bound is not listed. Nor is that of a listener of which the process has accepted sockets only, as far
// as the kernel's table shows that the listener is there: they do not keep it alive.
//
// Files may come together with an error, which names the sockets whose files were not found: fs.ErrNotExist, or fs.ErrPermission
// for what we may not see. Without Files, pidfd.ErrExited, and fs.ErrPermission when the descriptors of the process may not be
// read at all: that needs PTRACE_MODE_READ, which a process that is not dumpable refuses its own user too. Linux 5.6.
func Held(p *pidfd.Process, dirs ...string) ([]*File, error) {
	pid, err := runningPID(p)
	if err != nil {
		return nil, err
	}
	s := &snapshot{p: p, pid: pid, dirs: dirs, known: map[ID]bool{}, noted: map[ID]bool{}}
	defer s.end()
	if err := checkRead(p, pid, s.take()); err != nil {
		for _, f := range s.files {
			_ = f.Close()
		}
		return nil, err
	}
	return s.files, errors.Join(s.errs...)
}

// runningPID is the number of a process that has not ended. pidfd.ErrExited when it has.
func runningPID(p *pidfd.Process) (int, error) {
	exited, err := p.Exited()
	if err != nil {
		return 0, err
	}
	pid := p.PID()
	switch {
	case exited || pid < 0:
		return 0, fmt.Errorf("descriptors of a process: %w", pidfd.ErrExited)
	case pid == 0:
		return 0, fmt.Errorf("descriptors of a process: %w: it is not in our pid namespace", fs.ErrPermission)
	}
	return pid, nil
}

// checkRead decides on the end of reading about a process in /proc, and on what the reading failed with. A pid is given to
// another process once its owner is reaped.
func checkRead(p *pidfd.Process, pid int, err error) error {
	exited, exitErr := p.Exited()
	switch {
	case exitErr != nil:
		return exitErr
	case p.PID() != pid, exited && err != nil:
		return fmt.Errorf("descriptors of process %d: %w", pid, pidfd.ErrExited)
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("descriptors of process %d: %w: /proc hides it (%w)", pid, fs.ErrPermission, err)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("descriptors of process %d: %w; %s, and reading them then needs CAP_SYS_PTRACE", pid, err, whyForbidden(pid))
	}
	return err
}

// whyForbidden guesses at what makes /proc/PID/fd unreadable.
func whyForbidden(pid int) string {
	status, err := proc.FS("").Status(pid)
	if euid := uint32(os.Geteuid()); err == nil && status.UIDs != (proc.IDs{Real: euid, Effective: euid, Saved: euid, Filesystem: euid}) {
		return fmt.Sprintf("it runs as user %d", status.UIDs.Effective)
	}
	return "it is not dumpable (PR_SET_DUMPABLE of prctl(2)) or has other capabilities"
}
