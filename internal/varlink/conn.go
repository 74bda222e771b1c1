package varlink

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sockwatch/sockwatch/internal/sys"
)

// conn is a connection of a Server. One goroutine reads calls, one serves them in turn, one writes replies.
type conn struct {
	server *Server
	peer   *Peer
	sock   *net.UnixConn
	raw    syscall.RawConn // of sock
	out    *outbox
	calls  chan request

	ctx       context.Context // of ordinary calls, which are served also when the peer has left
	cancel    context.CancelFunc
	stream    context.Context // of calls with "more": ends when the peer has left, or is to
	endStream context.CancelFunc
	streaming atomic.Int32 // calls with "more" that were read and have not ended

	mu     sync.Mutex
	refuse *Error // why nothing more is read
}

// maxWaiting is how many calls are read before their turn has come. The others wait in the kernel, and then the peer does.
const maxWaiting = 4

func newConn(s *Server, p *Peer, sock *net.UnixConn, raw syscall.RawConn) *conn {
	c := &conn{server: s, peer: p, sock: sock, raw: raw, calls: make(chan request, maxWaiting)}
	c.ctx, c.cancel = context.WithCancel(context.Background())
	c.stream, c.endStream = context.WithCancel(c.ctx)
	c.out = newOutbox(sock, s.o.MaxUnread, s.unreadOf(p.UID))
	return c
}

// run serves the connection until its end, which comes early with that of ctx.
func (c *conn) run(ctx context.Context) {
	var reader, writer sync.WaitGroup
	writer.Go(func() { c.out.run(); c.endStream() })
	reader.Go(func() {
		halfClosed := c.read(ctx)
		close(c.calls)
		if halfClosed {
			c.awaitHangup()
		}
	})

	shutdown := context.AfterFunc(ctx, func() {
		c.endStream()
		_ = c.sock.SetReadDeadline(time.Unix(1, 0))
		late := time.AfterFunc(c.server.o.Patience, func() { c.cancel(); _ = c.sock.Close() })
		context.AfterFunc(c.ctx, func() { late.Stop() })
	})
	for r := range c.calls {
		// Who only ever sends is not read from any more. One who has sent and left is served.
		_ = c.out.drain()
		if ctx.Err() != nil {
			break
		}
		c.serve(r)
	}
	shutdown()
	c.cancel()
	if e := c.fault(); e != nil {
		_ = c.send(reply{Error: e.Name, Parameters: e.Parameters})
	}
	// A peer that reads nothing would keep us.
	_ = c.sock.SetWriteDeadline(time.Now().Add(c.server.o.Patience))
	c.out.finish()
	writer.Wait()
	_ = c.sock.Close()
	reader.Wait()
}

// send queues a reply; ErrDropped says that the connection is at its end.
func (c *conn) send(r reply) error {
	err := c.out.add(marshal(r))
	limit, of := c.server.o.MaxUnread, "connection"
	if errors.Is(err, errUnreadOfUser) {
		limit, of = c.server.o.MaxUnreadPerUser, "user"
	}
	if errors.Is(err, errUnread) || errors.Is(err, errUnreadOfUser) {
		c.server.refused(c.peer, c.server.error(Unread, map[string]any{"limit": limit, "of": of}))
		c.endStream()
		_ = c.sock.Close()
		err = ErrDropped
	}
	return err
}

// marshal returns the message. What cannot be marshalled is a mistake in a method's types.
func marshal(r reply) []byte {
	if r.Parameters == nil {
		r.Parameters = struct{}{}
	}
	var b bytes.Buffer
	encoder := json.NewEncoder(&b)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(r); err != nil {
		r.Parameters = struct{}{}
		b.Reset()
		_ = encoder.Encode(r)
	}
	message := b.Bytes()
	message[len(message)-1] = 0 // for Encode's newline
	return message
}

func (c *conn) fault() *Error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.refuse
}

// refuseWith has the calls before this answered, those with "more" ended, and then the connection with the error.
func (c *conn) refuseWith(name string, parameters any) {
	e := c.server.error(name, parameters)
	c.mu.Lock()
	c.refuse = e
	c.mu.Unlock()
	c.server.refused(c.peer, e)
	c.endStream()
}

// read reads calls until the peer sends no more, when it returns true, or nothing more is to be read.
func (c *conn) read(ctx context.Context) (halfClosed bool) {
	const piece = 4 << 10
	limit := c.server.o.MaxMessage
	control := make([]byte, sys.CredentialSpace)
	var b []byte // what was received and is not yet a whole message
	for {
		if cap(b)-len(b) == 0 {
			b = append(make([]byte, 0, min(max(piece, 2*len(b)), limit+1)), b...)
		}
		n, err := c.receive(b[len(b):cap(b)], control)
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
			if ctx.Err() == nil { // else it was to end the reading
				c.refuseWith(MessageTooSlow, map[string]int64{"limit_ms": c.server.o.Patience.Milliseconds()})
			}
			return false
		case errors.Is(err, io.EOF):
			if len(b) > 0 {
				c.refuseWith(MalformedMessage, map[string]string{"reason": "ends in its middle"})
			}
			return len(b) == 0
		case errors.As(err, new(*mismatchError)):
			c.refuseWith(SenderMismatch, map[string]string{"reason": err.Error()})
			return false
		case err != nil: // ECONNRESET: the peer has left without reading our replies
			c.endStream()
			return false
		}
		seen, hadSome := len(b), len(b) > 0
		b = b[:len(b)+n]
		taken := 0
		for {
			end := bytes.IndexByte(b[max(seen, taken):], 0)
			if end < 0 {
				break
			}
			end += max(seen, taken)
			if !c.take(b[taken:end]) {
				return false
			}
			taken = end + 1
		}
		if len(b)-taken > limit {
			c.refuseWith(MessageTooLarge, map[string]int{"limit": limit})
			return false
		}
		var deadline time.Time
		switch {
		case taken == len(b) && cap(b) > piece:
			b = nil // an idle connection has a small buffer
		case taken == len(b):
			b = b[:0]
		case taken > 0 || !hadSome:
			deadline = time.Now().Add(c.server.o.Patience)
			b = append(make([]byte, 0, max(piece, len(b)-taken)), b[taken:]...)
		default:
			continue // the deadline of its first byte holds
		}
		_ = c.sock.SetReadDeadline(deadline)
		if ctx.Err() != nil { // the shutdown's deadline may just have been overwritten
			return false
		}
	}
}

// take hands a message on to be served.
func (c *conn) take(message []byte) bool {
	if len(message) > c.server.o.MaxMessage {
		c.refuseWith(MessageTooLarge, map[string]int{"limit": c.server.o.MaxMessage})
		return false
	}
	r, err := parseRequest(message)
	if err != nil {
		c.refuseWith(MalformedMessage, map[string]string{"reason": err.Error()})
		return false
	}
	if c.streaming.Load() > 0 && len(c.calls) == maxWaiting {
		// Waiting for room would mean not to see the peer leave, for which that call may wait for ever.
		c.refuseWith(TooManyCalls, map[string]int{"limit": maxWaiting})
		return false
	}
	if r.More {
		c.streaming.Add(1)
	}
	select {
	case c.calls <- r:
		return true
	case <-c.ctx.Done():
		return false
	}
}

type mismatchError struct{ error }

// receive is recvmsg(2), of which each returns what one sender has sent: unix_stream_read_generic in net/unix/af_unix.c.
func (c *conn) receive(b, control []byte) (n int, err error) {
	var cn int
	closed := c.raw.Read(func(fd uintptr) bool {
		n, cn, _, err = sys.ReceiveMessage(int(fd), b, control)
		return !errors.Is(err, unix.EAGAIN)
	})
	switch {
	case closed != nil:
		return 0, closed
	case err != nil:
		return 0, err
	case n == 0:
		return 0, io.EOF
	}
	if err := c.peer.sent(control[:cn]); err != nil {
		return 0, &mismatchError{err}
	}
	return n, nil
}

// awaitHangup waits for the peer to close the connection, after it has said that it sends no more. It may still read.
func (c *conn) awaitHangup() {
	err := c.raw.Read(func(fd uintptr) bool {
		hungUp, err := sys.HungUp(int(fd))
		return hungUp || err != nil
	})
	if err == nil {
		c.endStream()
	}
}
