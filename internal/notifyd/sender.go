package notifyd

import (
	"errors"
	"fmt"
	"io/fs"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sockwatch/sockwatch/internal/proc"
	"github.com/sockwatch/sockwatch/internal/sys"
	"github.com/sockwatch/sockwatch/pidfd"
)

var (
	errNoSender  = errors.New("the kernel does not say who sent it")
	errOutside   = errors.New("sent from outside our pid namespace")
	errTooLong   = fmt.Errorf("longer than %d bytes", maxMessage)
	errNotSender = errors.New("the process with its pid started after it was sent")
)

// receive makes a Report of a datagram and its control messages.
func receive(b, control []byte, flags int) Report {
	sender, err := identify(control)
	report := Report{Sender: sender}
	switch {
	case err != nil:
		report.Err = err
	case flags&unix.MSG_TRUNC != 0 || len(b) > maxMessage:
		report.Err = errTooLong
	default:
		report.Message, report.Err = Parse(b)
	}
	return report
}

// identify finds out who sent a datagram.
func identify(control []byte) (Sender, error) {
	// Descriptors that somebody put into the message are closed unseen.
	from, err := sys.ParseSender(control)
	if err != nil {
		return Sender{}, err
	}
	s := Sender{PID: int(from.PID), UID: from.UID, GID: from.GID, Time: from.Time}
	switch {
	case !from.Known:
		err = errNoSender
	case from.PID == 0:
		err = errOutside
	case from.HasPidfd && (from.Pidfd == -int(unix.EMFILE) || from.Pidfd == -int(unix.ENFILE)):
		err = fmt.Errorf("open the sender: %w", unix.Errno(-from.Pidfd)) // it says nothing of whether the sender lives
	case from.HasPidfd && from.Pidfd < 0:
		return s, nil // reaped: its pid may be another's by now. Linux 6.12 says so by -EINVAL
	case from.HasPidfd:
		s.Process, err = pidfd.FromFD(from.Pidfd)
		if err == nil {
			return s, nil
		}
	default:
		s.Process, err = openSender(s)
		return s, err
	}
	if from.Pidfd >= 0 {
		_ = sys.Close(from.Pidfd)
	}
	return s, err
}

// openSender opens the sender by its pid, where the kernel gives no descriptor: before Linux 6.5. It may have been reaped
// and the pid be another's; that one started after the message was sent.
func openSender(s Sender) (*pidfd.Process, error) {
	p, err := pidfd.Open(s.PID)
	if errors.Is(err, pidfd.ErrExited) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	stat, err := proc.FS("").Stat(s.PID)
	if errors.Is(err, fs.ErrNotExist) {
		_ = p.Close()
		return nil, nil
	}
	if err == nil && !s.Time.IsZero() {
		var age time.Duration
		if age, err = sys.Age(stat.StartTime); err == nil && age+sys.Tick < time.Since(s.Time) {
			err = errNotSender
		}
	}
	if err != nil {
		_ = p.Close()
		return nil, err
	}
	return p, nil
}
