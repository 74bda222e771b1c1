package varlink

import (
	"errors"
	"fmt"
	"syscall"

	"github.com/sockwatch/sockwatch/internal/sys"
)

// Peer is the process at the other end of a connection, as it was when it connected, on the kernel's word. Who sends the
// calls is the same: see the package's comment.
type Peer struct {
	PID      int32 // 0 for a process outside our pid namespace
	UID, GID uint32

	raw syscall.RawConn
}

// Groups is its supplementary groups: SO_PEERGROUPS, Linux 4.13. For use while its call runs.
func (p *Peer) Groups() (groups []uint32, err error) {
	err = p.control(func(fd int) error { groups, err = sys.PeerGroups(fd); return err })
	return groups, err
}

// Pidfd is a new descriptor of it, the caller's to close, which cannot be of a later process with the same pid:
// SO_PEERPIDFD, Linux 6.5, ENOPROTOOPT before that. For use while its call runs.
func (p *Peer) Pidfd() (fd int, err error) {
	fd = -1
	err = p.control(func(sock int) error { fd, err = sys.PeerPidfd(sock); return err })
	return fd, err
}

func (p *Peer) control(f func(fd int) error) error {
	if p.raw == nil {
		return errors.New("varlink: a peer that has no connection")
	}
	return controlFD(p.raw, f)
}

func controlFD(raw syscall.RawConn, f func(fd int) error) error {
	var inner error
	if err := raw.Control(func(fd uintptr) { inner = f(int(fd)) }); err != nil {
		return err
	}
	return inner
}

// newPeer asks who connected.
func newPeer(raw syscall.RawConn) (*Peer, error) {
	p := &Peer{raw: raw}
	return p, controlFD(raw, func(fd int) error {
		cred, err := sys.PeerCredentials(fd)
		p.PID, p.UID, p.GID = cred.Pid, cred.Uid, cred.Gid
		return err
	})
}

// sent is nil when the control messages say that the Peer sent what came with them.
func (p *Peer) sent(control []byte) error {
	s, err := sys.ParseSender(control)
	switch {
	case err != nil:
		return err
	case !s.Known:
		return errors.New("the kernel does not say who sent this")
	case s.PID != p.PID || s.UID != p.UID || s.GID != p.GID:
		return fmt.Errorf("process %d, uid %d, gid %d sent what only process %d, uid %d, gid %d may, who connected",
			s.PID, s.UID, s.GID, p.PID, p.UID, p.GID)
	}
	return nil
}
