package pidfd

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/sockwatch/sockwatch/internal/sys"
)

// Exit is how a process ended, as far as can be known.
type Exit struct {
	Known  bool
	Code   int         // exit status, when no signal ended it
	Signal unix.Signal // that ended it, or 0
	Core   bool        // it dumped core
	Reason string      // why not Known: one of the Reason constants, or what the kernel said
}

// Why it is not known how a process ended.
const (
	ReasonRunning   = "still running"
	ReasonNotReaped = "not reaped by its parent yet"                              // a later call may know
	ReasonNotKept   = "reaped, and this kernel keeps no status (Linux 6.15 does)" // final
	ReasonOutside   = "not in our pid namespace"
	ReasonClosed    = "the handle is closed"
)

// String returns what a shell would say: "exit status 3", "killed by SIGKILL", "killed by SIGSEGV (core dumped)", or
// the Reason.
func (e Exit) String() string {
	switch {
	case !e.Known && e.Reason == "":
		return "unknown"
	case !e.Known:
		return e.Reason
	case e.Signal == 0:
		return fmt.Sprintf("exit status %d", e.Code)
	case e.Core:
		return fmt.Sprintf("killed by %s (core dumped)", signalName(e.Signal))
	default:
		return fmt.Sprintf("killed by %s", signalName(e.Signal))
	}
}

// Exit tells how the process ended. It reaps nothing and waits for nothing, so that nobody's wait status is stolen.
//
// Of our own children it is known from their end until they are reaped: waitid(2) with P_PIDFD and WNOWAIT, Linux 5.4.
// Of every process, children too, it is known once it was reaped: PIDFD_GET_INFO with PIDFD_INFO_EXIT, Linux 6.15. So of
// a process that is not our child nothing is known while it is a zombie, and before 6.15 never: then Known is false and
// Reason says why.
func (p *Process) Exit() Exit {
	var e Exit
	err := p.use(func(fd int) error {
		e = exitOf(fd)
		return nil
	})
	if err != nil {
		return Exit{Reason: ReasonClosed}
	}
	return e
}

func exitOf(fd int) Exit {
	exited, err := sys.Readable(fd)
	if err != nil {
		return Exit{Reason: err.Error()}
	}
	if !exited {
		return Exit{Reason: ReasonRunning}
	}
	// Any error means that the status is not ours to see.
	if status, ended, _ := sys.PidfdPeek(fd); ended {
		return decode(status)
	}
	// Before asking for the status: who is reaped by now has it kept already.
	pid, err := currentPID(fd)
	if err != nil {
		return Exit{Reason: err.Error()}
	}
	info, err := sys.PidfdInfo(fd, unix.PIDFD_INFO_EXIT)
	switch {
	case err == nil && info.Mask&unix.PIDFD_INFO_EXIT != 0:
		return decode(unix.WaitStatus(info.Exit_code))
	case pid > 0:
		return Exit{Reason: ReasonNotReaped}
	case pid == 0, errors.Is(err, unix.EREMOTE):
		return Exit{Reason: ReasonOutside}
	default:
		return Exit{Reason: ReasonNotKept}
	}
}

// decode takes the status that wait(2) reports apart.
func decode(status unix.WaitStatus) Exit {
	if status.Exited() {
		return Exit{Known: true, Code: status.ExitStatus()}
	}
	return Exit{Known: true, Signal: status.Signal(), Core: status.CoreDump()}
}

// signalName is the name of a signal where it has one.
func signalName(sig unix.Signal) string {
	if s := unix.SignalName(sig); s != "" {
		return s
	}
	return fmt.Sprintf("signal %d", int(sig))
}
