package reap

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/sockwatch/sockwatch/internal/sys"
)

// foresee gives the Result that unlink would have, as far as the kernel tells without trying.
func (p pin) foresee() Result {
	file, err := sys.FileAttributes(p.fd)
	if err != nil {
		return refusal("foresee", err)
	}
	if file.MountRoot {
		return refusal("foresee", unix.EBUSY)
	}
	directory, err := sys.FileAttributes(p.dir.fd)
	if err != nil {
		return refusal("foresee", err)
	}
	if err := sys.Writable(p.dir.fd); err != nil {
		return refusal("foresee", err)
	}
	if file.Fixed || directory.Fixed {
		return refusal("foresee", fmt.Errorf("immutable or append-only: %w", unix.EPERM))
	}
	st, err := sys.Fstat(p.dir.fd)
	if err != nil {
		return refusal("foresee", err)
	}
	// In a sticky directory only the owner of the file or of the directory may, and root.
	if euid := uint32(os.Geteuid()); st.Mode&unix.S_ISVTX != 0 && euid != 0 && euid != p.stat.UID && euid != st.UID {
		return refusal("foresee", fmt.Errorf("sticky directory: %w", unix.EPERM))
	}
	return Result{Outcome: OutcomeRemoved}
}
