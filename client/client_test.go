package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/sockwatch/sockwatch/internal/testutil"
	"github.com/sockwatch/sockwatch/internal/varlink"
)

// service answers calls as a daemon would, and keeps their parameters.
type service struct {
	addr  string
	stop  context.CancelFunc
	asked chan string

	mu      sync.Mutex
	replies map[string]varlink.Method
}

// on sets what replies to a method. Without it the reply is empty.
func (s *service) on(method string, reply varlink.Method) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.replies[method] = reply
}

// serve starts a service, which ends with the test.
func serve(t *testing.T) *service {
	t.Helper()
	dir := testutil.TempDir(t)
	l, err := varlink.Listen(t.Context(), filepath.Join(dir, ControlName), 0)
	must(t, err)
	ctx, stop := context.WithCancel(context.Background())
	s := &service{addr: filepath.Join(dir, ControlName), stop: stop, asked: make(chan string, 100), replies: map[string]varlink.Method{}}
	methods := map[string]varlink.Method{}
	for _, name := range []string{"Watch", "Unwatch", "Claim", "Release", "List", "Status", "History", "Monitor"} {
		methods[name] = func(ctx context.Context, call *varlink.Call) error {
			var parameters json.RawMessage
			if err := call.Decode(&parameters); err != nil {
				return err
			}
			s.asked <- fmt.Sprintf("%s %s", name, parameters)
			s.mu.Lock()
			reply := s.replies[name]
			s.mu.Unlock()
			if reply == nil {
				return nil
			}
			return reply(ctx, call)
		}
	}
	server := varlink.New(varlink.Options{ErrorInterface: Interface}, varlink.Interface{Name: Interface, Description: Description, Methods: methods})
	done := make(chan error)
	go func() { done <- server.Serve(ctx, l) }()
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return s
}

// with replies v to every call.
func with(v any) varlink.Method {
	return func(_ context.Context, call *varlink.Call) error { return call.Reply(v) }
}

func failing(err error) varlink.Method {
	return func(context.Context, *varlink.Call) error { return err }
}

func (s *service) client(t *testing.T) *Client {
	t.Helper()
	c, err := Dial(t.Context(), s.addr)
	must(t, err)
	t.Cleanup(func() { must(t, c.Close()) })
	return c
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func uid(u uint32) *uint32 { return &u }

func TestCalls(t *testing.T) {
	s := serve(t)
	c := s.client(t)
	asked := func(want string) {
		t.Helper()
		if got := <-s.asked; got != want {
			t.Errorf("asked %s, want %s", got, want)
		}
	}

	s.on("Watch", with(Watched{"7:70/0", 2}))
	w, err := c.Watch(t.Context(), WatchRequest{Process: "7:70", Paths: []string{"/a"}})
	if err != nil || w != (Watched{"7:70/0", 2}) {
		t.Error(w, err)
	}
	asked(`Watch {"process":"7:70","paths":["/a"]}`)

	must(t, c.Unwatch(t.Context(), w.ID))
	asked(`Unwatch {"id":"7:70/0"}`)
	must(t, c.Claim(t.Context(), w.ID, "/b"))
	asked(`Claim {"id":"7:70/0","path":"/b"}`)
	s.on("Release", with(map[string]bool{"released": true}))
	if released, err := c.Release(t.Context(), w.ID, "/b"); !released || err != nil {
		t.Error(released, err)
	}
	asked(`Release {"id":"7:70/0","path":"/b"}`)

	status := Status{PID: 3, Version: "1", Started: "2026-01-02T03:04:05.000000006Z", RuntimeDir: "/r", Owners: 1, Claims: 2, EventsDropped: 3}
	s.on("Status", with(status))
	if got, err := c.Status(t.Context()); got != status || err != nil {
		t.Error(got, err)
	}
	asked(`Status {}`)

	us := int64(90)
	events := []Event{{
		Type: "outcome", Time: "2026-01-02T03:04:05.000000006Z", Process: "7:70", PID: 7, Comm: "c", UID: uid(0), Exit: "killed by SIGKILL",
		Path: Path{"/\uFFFD", "L/8="}, Source: "explicit", Outcome: "removed", AfterExitUS: &us,
	}}
	s.on("History", with(map[string]any{"events": events}))
	got, err := c.History(t.Context(), "")
	must(t, err)
	if diff := cmp.Diff(events, got); diff != "" {
		t.Error(diff)
	}
	if got[0].Exact() != "/\xff" {
		t.Errorf("%q", got[0].Exact())
	}
	asked(`History {}`)
	_, err = c.History(t.Context(), "/p")
	must(t, err)
	asked(`History {"path":"/p"}`)
}

func TestList(t *testing.T) {
	s := serve(t)
	c := s.client(t)
	if got, err := c.List(t.Context()); len(got) != 0 || err != nil {
		t.Error(got, err)
	}
	var owners []Owner
	for pid := range 1000 {
		o := Owner{
			ID: fmt.Sprint(pid), Process: fmt.Sprintf("%d:1", pid), PID: pid, UID: 1, RegisteredBy: uid(0), Name: "n",
			Claims: []Claim{{Path: Path{Path: "/p"}, Source: "explicit", Pending: true}},
		}
		owners = append(owners, o)
	}
	s.on("List", func(_ context.Context, call *varlink.Call) error {
		if !call.More {
			return errors.New("not all of it fits into one reply")
		}
		for _, o := range owners[:len(owners)-1] {
			if err := call.ReplyContinues(map[string]any{"owners": []Owner{o}}); err != nil {
				return err
			}
		}
		return call.Reply(map[string]any{"owners": owners[len(owners)-1:]})
	})
	got, err := c.List(t.Context())
	must(t, err)
	if diff := cmp.Diff(owners, got); diff != "" {
		t.Error(diff)
	}
	s.on("List", failing(errors.New("secret")))
	if got, err := c.List(t.Context()); got != nil || !errors.Is(err, ErrFailed) {
		t.Error(got, err)
	}
}

func TestMonitor(t *testing.T) {
	s := serve(t)
	s.on("Monitor", func(ctx context.Context, call *varlink.Call) error {
		for _, reply := range []string{`{"event":null,"dropped":0}`, `{"event":{"type":"exit","time":"t"},"dropped":4}`} {
			if err := call.ReplyContinues(json.RawMessage(reply)); err != nil {
				return err
			}
		}
		<-ctx.Done()
		return ctx.Err()
	})
	var got []Monitored
	for m, err := range s.client(t).Monitor(t.Context()) {
		if err != nil { // with what follows an event
			if !errors.Is(err, ErrShuttingDown) {
				t.Error(err)
			}
			continue
		}
		if got = append(got, m); len(got) == 2 {
			s.stop()
		}
	}
	want := []Monitored{{}, {Event: Event{Type: "exit", Time: "t"}, Dropped: 4}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// TestMonitorEnded is a daemon that ends the stream as if there was no more to come.
func TestMonitorEnded(t *testing.T) {
	for m, err := range serve(t).client(t).Monitor(t.Context()) {
		t.Error(m, err)
	}
}

func TestMonitorLeft(t *testing.T) {
	s := serve(t)
	ended := make(chan struct{}, 2)
	s.on("Monitor", func(ctx context.Context, call *varlink.Call) error {
		err := call.ReplyContinues(json.RawMessage(`{"event":null,"dropped":0}`))
		<-ctx.Done()
		ended <- struct{}{}
		return err
	})
	c := s.client(t)
	for _, err := range c.Monitor(t.Context()) {
		must(t, err)
		break
	}
	<-ended
	if _, err := c.Status(t.Context()); !errors.Is(err, ErrDisconnected) {
		t.Error(err)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	defer cancel(nil)
	enough := errors.New("enough")
	var last error
	for _, err := range s.client(t).Monitor(ctx) {
		cancel(enough)
		last = err
	}
	if !errors.Is(last, enough) {
		t.Error(last)
	}
	<-ended
}

func TestErrors(t *testing.T) {
	s := serve(t)
	c := s.client(t)
	for _, tt := range []struct {
		err  *varlink.Error
		want error
		text string
	}{
		{&varlink.Error{Name: "NoSuchProcess", Parameters: map[string]string{"process": "7:70"}}, ErrNoSuchProcess, ": 7:70"},
		{&varlink.Error{Name: "NoSuchOwner", Parameters: map[string]string{"id": "x"}}, ErrNoSuchOwner, ": x"},
		{&varlink.Error{Name: "NoSuchClaim", Parameters: map[string]string{"path": "/p"}}, ErrNoSuchClaim, ": /p"},
		{
			&varlink.Error{Name: "NotPermitted", Parameters: map[string]string{"what": "/p", "why": "it is of user 0"}},
			ErrNotPermitted, "the daemon does not permit it: /p: it is of user 0",
		},
		{&varlink.Error{Name: "Invalid", Parameters: map[string]string{"what": "p", "why": "it is relative"}}, ErrInvalid, ": p: it is relative"},
		{&varlink.Error{Name: "LimitReached", Parameters: map[string]any{"what": "claims", "limit": 10}}, ErrLimit, "claims, at most 10"},
		{&varlink.Error{Name: "Failed", Parameters: map[string]string{"why": "open /p: EIO"}}, ErrFailed, ": open /p: EIO"},
		{&varlink.Error{Name: varlink.Internal}, ErrFailed, "its log says why"},
		{&varlink.Error{Name: varlink.ShuttingDown}, ErrShuttingDown, ""},
		{&varlink.Error{Name: varlink.SenderMismatch, Parameters: map[string]string{"reason": "r"}}, ErrRefused, ": r"},
		{&varlink.Error{Name: varlink.MalformedMessage, Parameters: map[string]string{"reason": "r"}}, ErrRefused, ": r"},
		{&varlink.Error{Name: varlink.MessageTooSlow, Parameters: map[string]int{"limit_ms": 5}}, ErrRefused, "more than 5 ms"},
		{&varlink.Error{Name: varlink.MessageTooLarge, Parameters: map[string]int{"limit": 5}}, ErrLimit, "at most 5"},
		{&varlink.Error{Name: varlink.TooManyCalls, Parameters: map[string]int{"limit": 5}}, ErrLimit, "calls that wait on one connection, at most 5"},
		{
			&varlink.Error{Name: varlink.TooManyConnections, Parameters: map[string]any{"limit": 64, "of": "user"}},
			ErrLimit, "connections of one user, at most 64",
		},
		{
			&varlink.Error{Name: varlink.TooManyConnections, Parameters: map[string]any{"limit": 512, "of": "service"}},
			ErrLimit, "connections in all, at most 512",
		},
		{&varlink.Error{Name: varlink.PermissionDenied}, ErrNotPermitted, ""},
		{varlink.InvalidParameterError("paths[0]"), ErrInvalid, "parameter paths[0]"},
		{&varlink.Error{Name: varlink.MethodNotFound, Parameters: map[string]string{"method": "m"}}, ErrUnsupported, ": m"},
		{&varlink.Error{Name: varlink.InterfaceNotFound, Parameters: map[string]string{"interface": "i"}}, ErrUnsupported, ": i"},
		{&varlink.Error{Name: "Later", Parameters: map[string]int{"n": 1}}, nil, `io.sockwatch.Daemon.Later {"n":1}`},
	} {
		if !strings.Contains(tt.err.Name, ".") {
			tt.err.Name = Interface + "." + tt.err.Name
		}
		s.on("Status", failing(tt.err))
		_, err := c.Status(t.Context())
		if err == nil || (tt.want != nil && !errors.Is(err, tt.want)) || !strings.Contains(err.Error(), tt.text) {
			t.Errorf("%s: got %v, want %v with %q", tt.err.Name, err, tt.want, tt.text)
		}
	}
}

// TestErrorsDeclared: each error that the description declares has a name in Go, and each parameter a field.
func TestErrorsDeclared(t *testing.T) {
	n := 0
	for line := range strings.Lines(Description) {
		declared, ok := strings.CutPrefix(line, "error ")
		if !ok {
			continue
		}
		n++
		name, rest, _ := strings.Cut(declared, " (")
		parameters := map[string]any{}
		for field := range strings.SplitSeq(strings.TrimSuffix(strings.TrimSpace(rest), ")"), ", ") {
			switch field, kind, _ := strings.Cut(field, ": "); kind {
			case "string":
				parameters[field] = "value of " + field
			case "int":
				parameters[field] = 424242
			}
		}
		b, err := json.Marshal(parameters)
		must(t, err)
		got := explainReply(&varlink.Error{Name: Interface + "." + name, Parameters: json.RawMessage(b)})
		if got == nil || errors.As(got, new(*varlink.Error)) {
			t.Errorf("%s has no name: %v", name, got)
		}
		for field, v := range parameters {
			if field != "of" && !strings.Contains(got.Error(), fmt.Sprint(v)) {
				t.Errorf("%s: its %s is not told: %v", name, field, got)
			}
		}
	}
	if n < 8 {
		t.Error("the description declares", n, "errors")
	}
}

func TestNotText(t *testing.T) {
	s := serve(t)
	c := s.client(t)
	const bad = "/\xff"
	for what, call := range map[string]func() error{
		"watch path": func() error {
			_, err := c.Watch(t.Context(), WatchRequest{Process: "1", Paths: []string{"/a", bad}})
			return err
		},
		"watch bindspace": func() error {
			_, err := c.Watch(t.Context(), WatchRequest{Process: "1", Bindspaces: []string{bad}})
			return err
		},
		"watch convention": func() error {
			_, err := c.Watch(t.Context(), WatchRequest{Process: "1", Conventions: []string{bad}})
			return err
		},
		"watch name": func() error { _, err := c.Watch(t.Context(), WatchRequest{Process: "1", Name: bad}); return err },
		"claim":      func() error { return c.Claim(t.Context(), "1", bad) },
		"release":    func() error { _, err := c.Release(t.Context(), "1", bad); return err },
		"history":    func() error { _, err := c.History(t.Context(), bad); return err },
	} {
		if err := call(); !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), `"/\xff"`) {
			t.Errorf("%s: %v", what, err)
		}
	}
	select {
	case asked := <-s.asked:
		t.Error(asked)
	default:
	}
}

func TestNoAnswer(t *testing.T) {
	s := serve(t)
	end := make(chan struct{})
	defer close(end)
	s.on("Status", func(context.Context, *varlink.Call) error { <-end; return nil })
	c := s.client(t)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := c.Status(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
	if _, err := c.Status(t.Context()); !errors.Is(err, ErrDisconnected) {
		t.Error(err)
	}
}

// TestDaemonEnds is a daemon that is killed while it is asked.
func TestDaemonEnds(t *testing.T) {
	path := testutil.TempDir(t) + "/s"
	l, err := net.Listen("unix", path)
	must(t, err)
	defer l.Close()
	go func() {
		if conn, err := l.Accept(); err == nil {
			conn.Close()
		}
	}()
	c, err := Dial(t.Context(), path)
	must(t, err)
	defer c.Close()
	if _, err := c.Status(t.Context()); !errors.Is(err, ErrDisconnected) {
		t.Error(err)
	}
}

func TestNobodyThere(t *testing.T) {
	dir := testutil.TempDir(t)
	if _, err := Dial(t.Context(), dir+"/absent"); !errors.Is(err, ErrNoDaemon) || !strings.Contains(err.Error(), dir+"/absent") {
		t.Error(err)
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: dir + "/dead", Net: "unix"})
	must(t, err)
	l.SetUnlinkOnClose(false)
	must(t, l.Close())
	_, err = Dial(t.Context(), dir+"/dead")
	if !errors.Is(err, ErrNoDaemon) || !errors.Is(err, unix.ECONNREFUSED) || !strings.Contains(err.Error(), "nobody listens") {
		t.Error(err)
	}
	must(t, os.WriteFile(dir+"/below", nil, 0o600))
	if _, err := Dial(t.Context(), dir+"/below/control"); !errors.Is(err, ErrNoDaemon) {
		t.Error(err)
	}
	if os.Geteuid() != 0 { // who may connect to anything
		must(t, os.Chmod(dir+"/dead", 0))
		if _, err := Dial(t.Context(), dir+"/dead"); !errors.Is(err, ErrNotPermitted) || !errors.Is(err, unix.EACCES) {
			t.Error(err)
		}
	}
	if _, err := Dial(t.Context(), "/"+strings.Repeat("x", 200)); err == nil || errors.Is(err, ErrNoDaemon) {
		t.Error(err)
	}
}
