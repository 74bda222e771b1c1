package pidfd

import (
	"errors"
	"fmt"
	"io/fs"

	"github.com/sockwatch/sockwatch/internal/proc"
	"github.com/sockwatch/sockwatch/internal/sys"
)

// procfs is /proc.
const procfs proc.FS = ""

// Info is what a process is at one moment. All of it can change, by exec, setuid or the death of the parent.
type Info struct {
	PID, PPID int // in our pid namespace; PPID is 0 when the parent is outside of it
	// In our user namespace; an id that it does not map is the overflow id, see user_namespaces(7).
	UID, EUID, GID uint32
	Comm           string // name, up to 15 bytes of any value; "" when /proc hides it
}

// Info returns what the process is now, also of a zombie: PIDFD_GET_INFO, Linux 6.13, with /proc/PID/comm; before, what
// /proc/PID/stat and status say.
//
// ErrExited once the process is reaped, ErrPermission where /proc hides it and 6.13 is not there.
func (p *Process) Info() (Info, error) {
	var info Info
	err := p.use(func(fd int) (err error) {
		switch {
		case p.pid < 0:
			return ErrExited
		case p.pid == 0:
			return errOutside
		}
		info, err = p.infoFromKernel(fd)
		if infoUnsupported(err) {
			info, err = p.infoFromProc(fd)
		}
		return err
	})
	if err != nil {
		return Info{}, explain("ask about", p.pid, err)
	}
	return info, nil
}

func (p *Process) infoFromKernel(fd int) (Info, error) {
	// Asked for after the name was read, this is also the check that the name is the process's.
	comm, _ := procfs.Comm(p.pid)
	info, err := sys.PidfdInfo(fd, 0)
	if err != nil {
		return Info{}, err
	}
	return Info{
		PID: p.pid, PPID: int(info.Ppid),
		UID: info.Ruid, EUID: info.Euid, GID: info.Rgid,
		Comm: comm,
	}, nil
}

func (p *Process) infoFromProc(fd int) (Info, error) {
	stat, err := procfs.Stat(p.pid)
	var status proc.Status
	if err == nil {
		status, err = procfs.Status(p.pid)
	}
	if err := p.checkRead(fd, err); err != nil {
		return Info{}, err
	}
	return Info{
		PID: p.pid, PPID: stat.PPID,
		UID: status.UIDs.Real, EUID: status.UIDs.Effective, GID: status.GIDs.Real,
		Comm: stat.Comm,
	}, nil
}

// checkRead decides whether something that was read from /proc/PID is of this process, and not of one that got the number
// after it: a pid is given out again only once its process is reaped.
func (p *Process) checkRead(fd int, readErr error) error {
	pid, err := currentPID(fd)
	switch {
	case err != nil:
		return err
	case pid != p.pid:
		return ErrExited
	case errors.Is(readErr, fs.ErrNotExist):
		return fmt.Errorf("%w: /proc hides it (%w)", ErrPermission, readErr)
	default:
		return readErr
	}
}
