package reap

import (
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/sockwatch/sockwatch/internal/sys"
)

// foresee gives the Result that unlink would have, as far as the kernel tells without trying. It does not tell of a disk
// without room for the private name, nor of a filesystem that has no way back from there.
func (p pin) foresee() Result {
	if err := p.obstacle(); err != nil {
		return refusal("foresee", err)
	}
	return Result{Outcome: OutcomeRemoved}
}

// obstacle looks for what rename(2) would refuse, in the kernel's order: it tells of the first.
func (p pin) obstacle() error {
	if err := p.dir.obstacle(); err != nil {
		return err
	}
	file, err := sys.FileAttributes(p.fd)
	if err != nil {
		return err
	}
	if file.Fixed {
		return errFixed
	}
	if err := p.stuck(); err != nil {
		return err
	}
	if file.MountRoot {
		return unix.EBUSY
	}
	return nil
}

// obstacle looks for what rename(2) would refuse of every file in the directory.
func (d *dir) obstacle() error {
	readOnly, err := sys.ReadOnly(d.fd)
	if err != nil {
		return err
	}
	if readOnly {
		return unix.EROFS
	}
	if err := sys.Writable(d.fd); err != nil {
		return err
	}
	directory, err := sys.FileAttributes(d.fd)
	if err != nil {
		return err
	}
	if directory.Fixed {
		return errFixed
	}
	return nil
}

var errFixed = fmt.Errorf("immutable or append-only: %w", unix.EPERM)

// stuck looks whether the directory is sticky and the file somebody else's: only the owner of one of them may remove it
// then, and who has CAP_FOWNER.
func (p pin) stuck() error {
	st, err := sys.Fstat(p.dir.fd)
	if err != nil || st.Mode&unix.S_ISVTX == 0 {
		return err
	}
	uid, err := sys.FSUID()
	if err != nil || uid == p.stat.UID || uid == st.UID {
		return err
	}
	mayAll, err := sys.HasCapability(unix.CAP_FOWNER)
	if err != nil || mayAll {
		return err
	}
	return fmt.Errorf("sticky directory: %w", unix.EPERM)
}
