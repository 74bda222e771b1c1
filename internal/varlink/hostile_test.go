package varlink

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sockwatch/sockwatch/internal/testutil"
)

func TestRefused(t *testing.T) {
	s := start(t, Options{})
	malformed := testName + "." + MalformedMessage
	for what, c := range map[string]struct{ message, want string }{
		"garbage":          {"\x01\xff\x02 GET / HTTP/1.1", malformed},
		"empty":            {"", malformed},
		"not UTF-8":        {call("Echo", "{\"text\":\"\xff\"}"), malformed},
		"array":            {`[]`, malformed},
		"two objects":      {`{"method":"a.B"}{"method":"a.B"}`, malformed},
		"duplicate":        {`{"method":"a.B","method":"a.C"}`, malformed},
		"duplicate inside": {call("Echo", `{"text":"a","items":[{"name":"a","n\u0061me":"b"}]}`), malformed},
		"nested":           {call("Echo", strings.Repeat("[", 16)+strings.Repeat("]", 16)), malformed},
		"nested deep":      {strings.Repeat(`{"a":`, 10000), malformed},
		"unknown key":      {`{"method":"a.B","sudo":true}`, malformed},
		"no method":        {`{}`, malformed},
		"method is number": {`{"method":1}`, malformed},
		"oversized":        {call("Echo", `{"text":"`+strings.Repeat("x", 64<<10)+`"}`), testName + "." + MessageTooLarge},
		"endless":          {strings.Repeat(" ", 8<<20), testName + "." + MessageTooLarge},
	} {
		t.Run(what, func(t *testing.T) {
			conn := s.dial()
			// What was asked before is answered before.
			conn.send(call("Echo", `{"text":"first"}`), c.message)
			conn.expectText("first")
			conn.expect(c.want)
			conn.expectEnd()
		})
	}
	conn := s.dial()
	conn.send(call("Echo", strings.Repeat("[", 15)+strings.Repeat("]", 15)))
	conn.expect(InvalidParameter)
	conn.send(call("Echo", `{"text":"`+strings.Repeat("x", 64<<10-100)+`"}`))
	conn.expectText(strings.Repeat("x", 64<<10-100))
	s.works()
}

// TestMiddle is a connection that ends in the middle of a message.
func TestMiddle(t *testing.T) {
	s := start(t, Options{})
	c := s.dial()
	_, err := io.WriteString(c, `{"method":"io.sock`)
	must(t, err)
	must(t, c.CloseWrite())
	c.expect(testName + "." + MalformedMessage)
	c.expectEnd()
}

// TestSlow sends one byte of a call at a time, each well before the end of the Server's patience.
func TestSlow(t *testing.T) {
	s := start(t, Options{Patience: 200 * time.Millisecond})
	idle, c := s.dial(), s.dial()
	idle.send(call("Echo", `{"text":"a"}`))
	idle.expectText("a")
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		<-tick.C
		if _, err := c.Write([]byte(" ")); err != nil {
			break
		}
	}
	c.expect(testName + "." + MessageTooSlow)
	c.expectEnd()
	idle.send(call("Echo", `{"text":"b"}`))
	idle.expectText("b")
}

// TestUnread is a subscriber that does not read.
func TestUnread(t *testing.T) {
	s := start(t, Options{})
	c := s.dial()
	c.send(`{"method":"` + testName + `.Flood","more":true}`)
	s.expectEnded(ErrDropped)
	if !s.wasRefused(Unread) {
		t.Error(s.refused)
	}
	s.works()
}

// TestUnreadOfUser has one user leave long replies unread on many connections, each of which is allowed: the last one is not. When
// the others are closed there is room again.
func TestUnreadOfUser(t *testing.T) {
	const long = 4 << 20 // much more than the kernel takes
	s := start(t, Options{MaxUnreadPerUser: 3 * long / 2})
	calling := []*raw{s.dial(), s.dial()}
	for _, c := range calling {
		c.send(call("Long", `{"bytes":`+strconv.Itoa(long)+`}`))
		s.wrote(c)
	}
	c := s.dial()
	c.send(call("Long", `{"bytes":100}`))
	c.expectEnd()
	if !s.wasRefused(Unread + ` {"limit":6291456,"of":"user"}`) {
		t.Error(s.refused)
	}
	for _, c := range calling {
		must(t, c.Close())
	}
	for s.connected() { // until then they count
		runtime.Gosched()
	}
	s.works()
}

// wrote waits until the peer has the first byte of a reply, all of which is counted by then.
func (s *service) wrote(c *raw) {
	s.t.Helper()
	if _, err := c.in.Peek(1); err != nil {
		s.t.Fatal(err)
	}
}

// TestUnreadCalls is one who only ever calls: it is made to wait, keeps nobody, and does not hold up the end.
func TestUnreadCalls(t *testing.T) {
	s := start(t, Options{})
	c := s.dial()
	message := call("Long", `{"bytes":100000}`) + "\x00"
	must(t, c.SetWriteDeadline(time.Now().Add(200*time.Millisecond)))
	for {
		if _, err := io.WriteString(c, message); err != nil {
			if !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Error(err)
			}
			break
		}
	}
	s.works()
}

func TestTooManyCalls(t *testing.T) {
	s := start(t, Options{})
	c := s.dial()
	c.send(waiting)
	_, err := readReply(c.in)
	must(t, err)
	for range maxWaiting + 1 {
		c.send(call("Echo", `{"text":"x"}`))
	}
	s.expectEnded(context.Canceled) // the waiting call, or nothing would come
	for range maxWaiting {
		c.expectText("x")
	}
	c.expect(testName + "." + TooManyCalls)
	c.expectEnd()
}

func TestConnections(t *testing.T) {
	testutil.Require(t, testutil.Descriptors(1000))
	s := start(t, Options{})
	served := make([]*raw, 64)
	for i := range served {
		served[i] = s.dial()
		served[i].send(call("Echo", `{"text":"x"}`))
		served[i].expectText("x")
	}
	for range 2000 {
		conn, err := net.Dial("unix", s.path)
		must(t, err)
		r := newRaw(t, conn.(*net.UnixConn))
		r.expect(testName + "." + TooManyConnections)
		r.expectEnd()
		must(t, conn.Close())
	}
	c, err := Dial(t.Context(), s.path)
	must(t, err)
	// A Client learns why, also when it finds the connection closed before it has said anything.
	if err := c.Call(t.Context(), testName+".Echo", nil, nil); !isError(err, testName+"."+TooManyConnections) {
		t.Error(err)
	}
	must(t, c.Close())
	for _, r := range served {
		r.send(call("Echo", `{"text":"y"}`))
		r.expectText("y")
	}
	must(t, served[0].CloseWrite())
	served[0].expectEnd()
	// The place is free when the server has seen to it, which is after we have.
	for {
		conn := s.dial()
		conn.send(call("Echo", `{"text":"z"}`))
		if reply, err := readReply(conn.in); err == nil && reply.err == nil {
			break
		}
		must(t, conn.Close())
	}
}

// TestDescriptors sends descriptors along, of which none may arrive: the end of the tests counts them.
func TestDescriptors(t *testing.T) {
	s := start(t, Options{})
	c := s.dial()
	for range 100 {
		_, _, err := c.WriteMsgUnix([]byte(call("Echo", `{"text":"x"}`)+"\x00"), unix.UnixRights(0, 1, 2), nil)
		must(t, err)
		c.expectText("x")
	}
}

// TestForged is root that says it is somebody else.
func TestForged(t *testing.T) {
	testutil.Require(t, testutil.Root)
	s := start(t, Options{})
	self := unix.Ucred{Pid: int32(os.Getpid()), Uid: 0, Gid: 0}
	for _, forged := range []unix.Ucred{
		{Pid: 1, Uid: self.Uid, Gid: self.Gid},
		{Pid: self.Pid, Uid: 65534, Gid: self.Gid},
		{Pid: self.Pid, Uid: self.Uid, Gid: 65534},
	} {
		c := s.dial()
		c.send(call("Echo", `{"text":"x"}`))
		c.expectText("x")
		_, _, err := c.WriteMsgUnix([]byte(call("Echo", `{"text":"x"}`)+"\x00"), unix.UnixCredentials(&forged), nil)
		must(t, err)
		c.expect(testName + "." + SenderMismatch)
		c.expectEnd()
	}
	c := s.dial()
	_, _, err := c.WriteMsgUnix([]byte(call("Echo", `{"text":"x"}`)+"\x00"), unix.UnixCredentials(&self), nil)
	must(t, err)
	c.expectText("x")
	s.works()
}

func init() {
	// sends the call that it is told over its standard output, which is a connection of somebody else's; as the user that it is told.
	helpers["say"] = func() {
		if len(os.Args) > 2 {
			uid, err := strconv.Atoi(os.Args[2])
			if err == nil {
				err = errors.Join(syscall.Setgid(uid), syscall.Setuid(uid))
			}
			if err != nil {
				panic(err)
			}
		}
		os.Stdout.WriteString(os.Args[1] + "\x00")
	}
}

// handOver has another process send the text, as another user if one is given.
func handOver(t *testing.T, c *raw, text string, as ...string) {
	t.Helper()
	f, err := c.File()
	must(t, err)
	defer f.Close()
	cmd := testutil.Command(t, "say", append([]string{text}, as...)...)
	cmd.Stdout = f
	must(t, cmd.Run())
}

// TestHandedOver is a connection that another process uses, of the same user.
func TestHandedOver(t *testing.T) {
	s := start(t, Options{})
	for _, begun := range []string{"", strings.TrimSuffix(call("Echo", `{"text":"x"}`), `:"x"}}`)} { // also for the rest of a call of ours
		c := s.dial()
		c.send(call("Echo", `{"text":"x"}`))
		c.expectText("x")
		_, err := io.WriteString(c, begun)
		must(t, err)
		handOver(t, c, `:"x"}}`)
		c.expect(testName + "." + SenderMismatch)
		c.expectEnd()
	}
	s.works()
}

// TestHandedDown is a connection of root's in the hands of another user.
func TestHandedDown(t *testing.T) {
	testutil.Require(t, testutil.Root)
	s := start(t, Options{})
	c := s.dial()
	handOver(t, c, call("Echo", `{"text":"x"}`), "65534")
	c.expect(testName + "." + SenderMismatch)
	c.expectEnd()
	if !strings.Contains(strings.Join(s.refused, "\n"), "uid 65534") {
		t.Error(s.refused)
	}
	s.works()
}

// connected tells whether there is a connection that the Server has not closed.
func (s *service) connected() bool {
	s.Server.mu.Lock()
	defer s.Server.mu.Unlock()
	return len(s.users) > 0
}

// TestStarved has no descriptor left for who connects.
func TestStarved(t *testing.T) {
	s := start(t, Options{})
	s.works()
	for s.connected() { // until then what it has may become free
		runtime.Gosched()
	}
	next, err := unix.Dup(0)
	must(t, err)
	must(t, unix.Close(next))
	var limit unix.Rlimit
	must(t, unix.Prlimit(0, unix.RLIMIT_NOFILE, nil, &limit))
	low := unix.Rlimit{Cur: uint64(next) + 1, Max: limit.Max} // ours
	must(t, unix.Prlimit(0, unix.RLIMIT_NOFILE, &low, nil))
	restore := func() { must(t, unix.Prlimit(0, unix.RLIMIT_NOFILE, &limit, nil)) }
	defer restore()
	c := s.dial()
	if err := <-s.unaccepted; !errors.Is(err, unix.EMFILE) {
		t.Error(err)
	}
	restore()
	c.send(call("Echo", `{"text":"x"}`))
	c.expectText("x")
}

// TestRoom has one user take all connections that there are for users: root is served on.
func TestRoom(t *testing.T) {
	s := New(Options{ErrorInterface: testName, MaxConnections: 3, MaxPerUser: 2})
	const a, b, c = 4000000001, 4000000002, 4000000003
	for i, step := range []struct {
		uid  uint32
		want bool
	}{{a, true}, {a, true}, {a, false}, {b, true}, {b, false}, {c, false}, {0, true}, {0, true}, {0, false}} {
		if got := s.enter(step.uid); (got == nil) != step.want {
			t.Errorf("step %d: %v", i, got)
		}
	}
	s.leave(a)
	if e := s.enter(c); e != nil {
		t.Error(e)
	}
}
