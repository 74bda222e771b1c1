package varlink

import (
	"context"
	_ "embed" // the description of org.varlink.service
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/sockwatch/sockwatch/internal/sys"
)

// Server answers calls. It is for any number of goroutines.
type Server struct {
	o          Options
	interfaces map[string]Interface

	mu     sync.Mutex
	users  map[uint32]int     // connections
	unread map[uint32]*unread // of the same users
	total  int                // of all users

	said PerUser // of refusals
}

// Interface is a set of methods.
type Interface struct {
	Name        string            // io.sockwatch.Daemon
	Description string            // in varlink's language
	Methods     map[string]Method // by their names without the interface; nil is MethodNotImplemented
}

// Options are a Server's. The zero value of a limit is what its comment says.
type Options struct {
	// Vendor, Product, Version and URL are what GetInfo tells.
	Vendor, Product, Version, URL string
	// ErrorInterface is the interface that the Server's own errors belong to, such as Internal. It must be set.
	ErrorInterface string
	// Refused is told of each connection that is refused, with what its peer is told, and may be called by many goroutines
	// at once. With an error that is no *Error the Peer is empty: nothing could be accepted, or asked about who connected.
	// Of one user it is told no more than PerUser allows.
	Refused func(*Peer, error)
	// Failed is told of each error of a method that is no *Error and that the peer therefore does not learn.
	Failed func(p *Peer, method string, err error)

	// MaxMessage is how many bytes a call may have. 0 is 64 KiB.
	MaxMessage int
	// MaxUnread is how many bytes of replies may wait for the peer to read them before one more drops it. 0 is 256 KiB.
	// A single reply may be longer.
	MaxUnread int
	// MaxUnreadPerUser is the same for all connections of one user together. 0 is 8 MiB.
	MaxUnreadPerUser int
	// MaxConnections is how many there may be, of users other than root and ourselves. 0 is 512.
	MaxConnections int
	// MaxPerUser is how many connections one user may have. 0 is 64.
	MaxPerUser int
	// Patience is how long a message may take to arrive once its first byte is there, and how long what was replied to a peer
	// that is to be disconnected may take to be read. 0 is 10 s.
	Patience time.Duration
}

const serviceName = "org.varlink.service"

//go:embed org.varlink.service.varlink
var serviceDescription string

// New returns a Server of the interfaces, which must have different names, and of org.varlink.service.
func New(o Options, interfaces ...Interface) *Server {
	o.MaxMessage = orDefault(o.MaxMessage, 64<<10)
	o.MaxUnread = orDefault(o.MaxUnread, 256<<10)
	o.MaxUnreadPerUser = orDefault(o.MaxUnreadPerUser, 8<<20)
	o.MaxConnections = orDefault(o.MaxConnections, 512)
	o.MaxPerUser = orDefault(o.MaxPerUser, 64)
	o.Patience = orDefault(o.Patience, 10*time.Second)
	s := &Server{o: o, interfaces: map[string]Interface{}, users: map[uint32]int{}, unread: map[uint32]*unread{}}
	own := Interface{serviceName, serviceDescription, map[string]Method{
		"GetInfo": s.getInfo, "GetInterfaceDescription": s.getInterfaceDescription,
	}}
	for _, i := range append(interfaces, own) {
		s.interfaces[i.Name] = i
	}
	return s
}

func orDefault[T comparable](v, d T) T {
	var zero T
	if v == zero {
		return d
	}
	return v
}

func (s *Server) getInfo(_ context.Context, c *Call) error {
	if err := c.Decode(&struct{}{}); err != nil {
		return err
	}
	return c.Reply(map[string]any{
		"vendor": s.o.Vendor, "product": s.o.Product, "version": s.o.Version, "url": s.o.URL,
		"interfaces": slices.Sorted(maps.Keys(s.interfaces)),
	})
}

func (s *Server) getInterfaceDescription(_ context.Context, c *Call) error {
	var in struct {
		Interface string `json:"interface"`
	}
	if err := c.Decode(&in); err != nil {
		return err
	}
	i, ok := s.interfaces[in.Interface]
	if !ok {
		return &Error{InterfaceNotFound, map[string]string{"interface": in.Interface}}
	}
	return c.Reply(map[string]string{"description": i.Description})
}

// error is one of the Server's own.
func (s *Server) error(name string, parameters any) *Error {
	return &Error{s.o.ErrorInterface + "." + name, parameters}
}

func (s *Server) refused(p *Peer, err error) {
	if s.o.Refused == nil {
		return
	}
	if ok, _ := s.said.Say(p.UID); ok { // who is refused that often is known by then
		s.o.Refused(p, err)
	}
}

// Listen makes the socket at path, where nothing may be. 0 as its mode is 0666: who may write to it may connect. The
// sock-file stays when the listener is closed: removing it is for the caller, by identity.
func Listen(ctx context.Context, path string, mode os.FileMode) (*net.UnixListener, error) {
	mode = orDefault(mode, 0o666)
	config := net.ListenConfig{Control: func(_, _ string, raw syscall.RawConn) error {
		return controlFD(raw, func(fd int) error {
			// Before bind, so that it is at no time open to more than it should be.
			return errors.Join(sys.PassCredentials(fd), sys.SetSocketMode(fd, uint32(mode.Perm())))
		})
	}}
	l, err := config.Listen(ctx, "unix", path)
	if err != nil {
		return nil, fmt.Errorf("make the control socket: %w", err)
	}
	listener := l.(*net.UnixListener)
	listener.SetUnlinkOnClose(false)
	if err := os.Chmod(path, mode.Perm()); err != nil { // what the umask took away
		return nil, errors.Join(fmt.Errorf("make the control socket: %w", err), listener.Close())
	}
	return listener, nil
}

// Serve answers who connects to the listener, from Listen or from elsewhere, which it closes. When ctx ends, calls with
// "more" are ended, the other calls that have begun are answered, for up to Options.Patience, the connections are closed,
// and it returns nil.
//
// A listener from elsewhere should have SO_PASSCRED already, PassCredentials= of systemd.socket(5): since Linux 6.16 one who
// connected before it had, and sends just while it is accepted, is refused.
func (s *Server) Serve(ctx context.Context, l *net.UnixListener) error {
	raw, err := l.SyscallConn()
	if err == nil {
		err = controlFD(raw, sys.PassCredentials)
	}
	if err != nil {
		return errors.Join(err, l.Close())
	}
	defer context.AfterFunc(ctx, func() { _ = l.Close() })()
	var conns sync.WaitGroup
	defer conns.Wait()
	defer l.Close()
	starved := false
	for {
		c, err := l.AcceptUnix()
		switch {
		case err == nil:
			starved = false
			s.admit(ctx, c, &conns)
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, net.ErrClosed):
			return err
		default:
			// No descriptors or no memory: the peer waits in the queue, and accept would fail again at once.
			if !starved {
				s.refused(&Peer{}, err)
			}
			starved = true
			select {
			case <-ctx.Done():
			case <-time.After(50 * time.Millisecond):
			}
		}
	}
}

// admit serves the connection, if there is room for one more of its user.
func (s *Server) admit(ctx context.Context, c *net.UnixConn, conns *sync.WaitGroup) {
	raw, err := c.SyscallConn()
	var peer *Peer
	if err == nil {
		// On Linux before 6.16 accept passes the option on, since then connect does.
		err = controlFD(raw, sys.PassCredentials)
	}
	if err == nil {
		peer, err = newPeer(raw)
	}
	if err != nil {
		s.refused(&Peer{}, err)
		_ = c.Close()
		return
	}
	if e := s.enter(peer.UID); e != nil {
		s.refused(peer, e)
		// The socket is new: there is room for this, and nothing waits.
		_, _ = c.Write(marshal(reply{Error: e.Name, Parameters: e.Parameters}))
		_ = c.Close()
		return
	}
	conns.Go(func() {
		defer s.leave(peer.UID)
		newConn(s, peer, c, raw).run(ctx)
	})
}

// privileged users have their own limit and no part in that of all others, who could otherwise lock them out.
func privileged(uid uint32) bool { return uid == 0 || uid == uint32(os.Geteuid()) }

func (s *Server) enter(uid uint32) *Error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.users[uid] >= s.o.MaxPerUser {
		return s.error(TooManyConnections, map[string]any{"limit": s.o.MaxPerUser, "of": "user"})
	}
	if !privileged(uid) {
		if s.total >= s.o.MaxConnections {
			return s.error(TooManyConnections, map[string]any{"limit": s.o.MaxConnections, "of": "service"})
		}
		s.total++
	}
	if s.users[uid]++; s.users[uid] == 1 {
		s.unread[uid] = &unread{limit: s.o.MaxUnreadPerUser}
	}
	return nil
}

// unreadOf is what all connections of a user, who has entered, leave unread.
func (s *Server) unreadOf(uid uint32) *unread {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.unread[uid]
}

func (s *Server) leave(uid uint32) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !privileged(uid) {
		s.total--
	}
	if s.users[uid]--; s.users[uid] == 0 {
		delete(s.users, uid)
		delete(s.unread, uid)
	}
}
