package pidfd

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/sockwatch/sockwatch/internal/sys"
)

// SignalGroup sends a signal to the process group that the process leads, itself among it: pidfd_send_signal(2) with
// PIDFD_SIGNAL_PROCESS_GROUP, Linux 6.9. Before that it is kill(2), right after a look whether the process is still there.
//
// ErrExited when it leads no group or was reaped, ErrPermission when not one of them may be signalled, os.ErrClosed.
func (p *Process) SignalGroup(sig unix.Signal) error {
	err := p.use(func(fd int) error {
		err := sys.PidfdSignalGroup(fd, sig)
		if !errors.Is(err, unix.EINVAL) {
			return err
		}
		pid, err := currentPID(fd)
		if err != nil {
			return err
		}
		return sys.KillGroup(pid, sig)
	})
	if err != nil {
		return explain(fmt.Sprintf("send %s to the process group of", signalName(sig)), p.pid, err)
	}
	return nil
}
