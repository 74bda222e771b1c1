package varlink

import (
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sockwatch/sockwatch/internal/testutil"
)

const testName = "io.sockwatch.Test"

//go:embed testdata/test.varlink
var testDescription string

// patience is longer than any machine takes for what the tests do.
const patience = 3 * time.Minute

// service is a Server of the tests' interface, on a socket of its own.
type service struct {
	*Server
	t       *testing.T
	path    string
	stop    context.CancelFunc
	stopped chan error
	ended   chan error // what ended each Wait and Flood, and nil for each Note

	unaccepted chan error // the first error of accept

	mu      sync.Mutex
	refused []string
	failed  []error
}

func start(t *testing.T, o Options) *service {
	t.Helper()
	s := &service{
		t: t, path: testutil.TempDir(t) + "/s",
		stopped: make(chan error, 1), ended: make(chan error, 100), unaccepted: make(chan error, 1),
	}
	o.Patience = orDefault(o.Patience, patience)
	o.Vendor, o.Product, o.Version, o.URL, o.ErrorInterface = "sockwatch", "test", "1", "https://example.org", testName
	o.Refused = func(_ *Peer, err error) {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.refused = append(s.refused, err.Error())
		if errors.As(err, new(*net.OpError)) {
			select {
			case s.unaccepted <- err:
			default:
			}
		}
	}
	o.Failed = func(_ *Peer, _ string, err error) {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.failed = append(s.failed, err)
	}
	s.Server = New(o, Interface{testName, testDescription, map[string]Method{
		"Echo": echo, "Count": count, "Wait": s.wait, "Flood": s.flood, "Long": long, "Later": nil,
		"Note": func(context.Context, *Call) error { s.ended <- nil; return nil },
		"Fail": func(context.Context, *Call) error { return errors.New("a secret") },
		"Refuse": func(context.Context, *Call) error {
			return &Error{testName + ".Refused", map[string]string{"why": "so"}}
		},
	}})
	l, err := Listen(t.Context(), s.path, 0)
	must(t, err)
	ctx, stop := context.WithCancel(context.Background())
	s.stop = stop
	go func() { s.stopped <- s.Serve(ctx, l) }()
	t.Cleanup(func() {
		stop()
		if err := <-s.stopped; err != nil {
			t.Error(err)
		}
	})
	return s
}

func (s *service) expectEnded(want error) {
	s.t.Helper()
	if err := <-s.ended; !errors.Is(err, want) {
		s.t.Error(err)
	}
}

func (s *service) wasRefused(name string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range s.refused {
		if strings.HasPrefix(r, testName+"."+name) {
			return true
		}
	}
	return false
}

// item and echoIn are the parameters of Echo.
type item struct {
	Name   string `json:"name"`
	Number *int   `json:"number"`
}

type echoIn struct {
	Text  string `json:"text"`
	Items []item `json:"items,omitempty"`
}

func echo(_ context.Context, c *Call) error {
	var in echoIn
	if err := c.Decode(&in); err != nil {
		return err
	}
	return c.Reply(map[string]any{"text": in.Text, "pid": c.Peer.PID})
}

func count(_ context.Context, c *Call) error {
	var in struct {
		To int `json:"to"`
	}
	if err := c.Decode(&in); err != nil {
		return err
	}
	for n := 1; n < in.To; n++ {
		if err := errors.Join(c.ReplyContinues(map[string]int{"n": n}), c.Drain()); err != nil {
			return err
		}
	}
	return c.Reply(map[string]int{"n": in.To})
}

func (s *service) wait(ctx context.Context, c *Call) error {
	if err := c.ReplyContinues(map[string]int{"n": 1}); err != nil {
		return err
	}
	<-ctx.Done()
	s.ended <- ctx.Err()
	return ctx.Err()
}

func (s *service) flood(_ context.Context, c *Call) error {
	for {
		if err := c.ReplyContinues(map[string]string{"text": strings.Repeat("x", 1000)}); err != nil {
			s.ended <- err
			return err
		}
	}
}

func long(_ context.Context, c *Call) error {
	var in struct {
		Bytes int `json:"bytes"`
	}
	if err := c.Decode(&in); err != nil {
		return err
	}
	return c.Reply(map[string]string{"text": strings.Repeat("x", in.Bytes)})
}

// dial connects without the Client.
func (s *service) dial() *raw {
	s.t.Helper()
	conn, err := net.Dial("unix", s.path)
	must(s.t, err)
	s.t.Cleanup(func() { conn.Close() })
	return newRaw(s.t, conn.(*net.UnixConn))
}

func (s *service) client() *Client {
	s.t.Helper()
	c, err := Dial(s.t.Context(), s.path)
	must(s.t, err)
	s.t.Cleanup(func() { c.Close() })
	return c
}

// works calls something over a new connection: the others are served on.
func (s *service) works() {
	s.t.Helper()
	c, err := Dial(s.t.Context(), s.path)
	must(s.t, err)
	defer c.Close()
	must(s.t, c.Call(s.t.Context(), testName+".Echo", echoIn{Text: "x"}, nil))
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func isError(err error, name string) bool {
	var e *Error
	return errors.As(err, &e) && e.Name == name
}

func parameters(err error) string {
	var e *Error
	if !errors.As(err, &e) {
		return ""
	}
	b, _ := json.Marshal(e.Parameters)
	return string(b)
}
