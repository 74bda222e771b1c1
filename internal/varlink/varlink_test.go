package varlink

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/sockwatch/sockwatch/internal/sys"
	"github.com/sockwatch/sockwatch/internal/testutil"
)

// raw is a client that can be made to do anything.
type raw struct {
	*net.UnixConn
	t  *testing.T
	in *bufio.Reader
}

func newRaw(t *testing.T, c *net.UnixConn) *raw { return &raw{c, t, bufio.NewReader(c)} }

// send sends the calls; that the other end has refused and closed is no error.
func (r *raw) send(messages ...string) {
	r.t.Helper()
	_, err := io.WriteString(r.UnixConn, strings.Join(messages, "\x00")+"\x00")
	if err != nil && !errors.Is(err, unix.EPIPE) && !errors.Is(err, unix.ECONNRESET) {
		r.t.Fatal(err)
	}
}

func (r *raw) expect(name string) {
	r.t.Helper()
	reply, err := readReply(r.in)
	must(r.t, err)
	if !isError(reply.err, name) {
		r.t.Fatalf("got %s, %v, want %s", reply.parameters, reply.err, name)
	}
}

func (r *raw) expectText(want string) {
	r.t.Helper()
	reply, err := readReply(r.in)
	must(r.t, errors.Join(err, reply.err))
	var got struct{ Text string }
	must(r.t, json.Unmarshal(reply.parameters, &got))
	if got.Text != want {
		r.t.Fatalf("got %s, want %s", reply.parameters, want)
	}
}

func (r *raw) expectEnd() {
	r.t.Helper()
	reply, err := readReply(r.in)
	if !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, unix.ECONNRESET) {
		r.t.Fatalf("got %s, %v, %v, want the end", reply.parameters, reply.err, err)
	}
}

func call(method, parameters string) string {
	return fmt.Sprintf(`{"method":"%s.%s","parameters":%s}`, testName, method, parameters)
}

const waiting = `{"method":"` + testName + `.Wait","more":true}`

func TestClient(t *testing.T) {
	s := start(t, Options{})
	c := s.client()
	var echoed struct {
		Text string
		PID  int
	}
	must(t, c.Call(t.Context(), testName+".Echo", echoIn{Text: "<é>\x00"}, &echoed))
	if echoed.Text != "<é>\x00" || echoed.PID != os.Getpid() {
		t.Errorf("%+v", echoed)
	}
	var info struct{ Interfaces []string }
	must(t, c.Call(t.Context(), serviceName+".GetInfo", nil, &info))
	if len(info.Interfaces) != 2 {
		t.Error(info)
	}
	n := 0
	for r, err := range c.More(t.Context(), testName+".Count", map[string]int{"to": 5000}) {
		must(t, err)
		if n++; string(r) != fmt.Sprintf(`{"n":%d}`, n) {
			t.Fatal(n, string(r))
		}
	}
	if n != 5000 {
		t.Error(n)
	}
	var long struct{ Text string }
	must(t, c.Call(t.Context(), testName+".Long", map[string]int{"bytes": 3 << 20}, &long))
	if len(long.Text) != 3<<20 {
		t.Error(len(long.Text))
	}
	for method, want := range map[string]string{
		testName + ".Fail":                       testName + ".Internal",
		testName + ".Refuse":                     testName + ".Refused",
		testName + ".Later":                      MethodNotImplemented,
		testName + ".Never":                      MethodNotFound,
		testName + ".Wait":                       ExpectedMore,
		"no.such.Thing":                          InterfaceNotFound,
		"nothing":                                InterfaceNotFound,
		testName + ".Echo":                       InvalidParameter,
		serviceName + ".GetInterfaceDescription": InvalidParameter,
	} {
		if err := c.Call(t.Context(), method, nil, nil); !isError(err, want) || strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: %v", method, err)
		}
	}
	if len(s.failed) != 1 {
		t.Error(s.failed)
	}
}

func TestClientCancelled(t *testing.T) {
	s := start(t, Options{})
	c := s.client()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var last error
	for _, err := range c.More(ctx, testName+".Wait", nil) {
		cancel()
		last = err
	}
	if !errors.Is(last, context.Canceled) {
		t.Error(last)
	}
	s.expectEnded(context.Canceled)
	if err := c.Call(t.Context(), testName+".Echo", nil, nil); !errors.Is(err, ErrBroken) {
		t.Error(err)
	}
	for _, err := range s.client().More(t.Context(), testName+".Wait", nil) {
		must(t, err)
		break // which closes
	}
	s.expectEnded(context.Canceled)
}

func TestReplyTooLarge(t *testing.T) {
	s := start(t, Options{})
	err := s.client().Call(t.Context(), testName+".Long", map[string]int{"bytes": maxReply}, nil)
	if err == nil || !strings.Contains(err.Error(), "more than") {
		t.Error(err)
	}
}

func TestDecode(t *testing.T) {
	s := start(t, Options{})
	c := s.client()
	for in, want := range map[string]string{
		`{}`:                          "text",
		`{"text":null}`:               "text",
		`{"text":1}`:                  "text",
		`{"Text":"x"}`:                "text",
		`{"text":"x","TEXT":"y"}`:     "TEXT",
		`{"text":"x","more":1}`:       "more",
		`{"text":"x","items":{}}`:     "items",
		`{"text":"x","items":[{}]}`:   "items[0].name",
		`{"text":"x","items":[null]}`: "items[0]",
		`[]`:                          "parameters",
		`"x"`:                         "parameters",
		`{"text":"x","items":[{"name":"a"},{"name":"b","number":1.5}]}`:     "items[1].number",
		`{"text":"x","items":[{"name":"a","number":99999999999999999999}]}`: "items[0].number",
	} {
		err := c.Call(t.Context(), testName+".Echo", json.RawMessage(in), nil)
		if !isError(err, InvalidParameter) || parameters(err) != fmt.Sprintf(`{"parameter":%q}`, want) {
			t.Errorf("%s: %v, want %s", in, err, want)
		}
	}
	must(t, c.Call(t.Context(), testName+".Echo", json.RawMessage(`{"text":"x","items":[{"name":"a","number":null}]}`), nil))
	must(t, c.Call(t.Context(), testName+".Echo", json.RawMessage(`{"text":"x","items":null}`), nil))
}

func TestPipelined(t *testing.T) {
	s := start(t, Options{})
	c := s.dial()
	var calls []string
	for n := range 1000 {
		calls = append(calls, call("Echo", fmt.Sprintf(`{"text":"%d%s"}`, n, strings.Repeat("y", 1000))))
	}
	// All at once, so that our end must be able to wait: the replies are more than the Server keeps.
	sent := make(chan error)
	go func() {
		_, err := io.WriteString(c.UnixConn, strings.Join(calls, "\x00")+"\x00")
		sent <- err
	}()
	for n := range 1000 {
		c.expectText(fmt.Sprint(n, strings.Repeat("y", 1000)))
	}
	must(t, <-sent)
}

func TestOneway(t *testing.T) {
	s := start(t, Options{})
	c := s.dial()
	c.send(`{"method":"`+testName+`.Echo","parameters":{"text":"a"},"oneway":true}`, `{"method":"no.such.Thing","oneway":true}`,
		`{"method":"`+testName+`.Echo","upgrade":true}`, call("Echo", `{"text":"b"}`))
	c.expect(InvalidParameter)
	c.expectText("b")
}

// TestHalfClosed is a peer that sends no more, and one that then leaves.
func TestHalfClosed(t *testing.T) {
	s := start(t, Options{})
	c := s.dial()
	c.send(call("Echo", `{"text":"a"}`), call("Echo", `{"text":"b"}`))
	must(t, c.CloseWrite())
	c.expectText("a")
	c.expectText("b")
	c.expectEnd()

	c = s.dial()
	c.send(waiting)
	must(t, c.CloseWrite())
	_, err := readReply(c.in)
	must(t, err)
	must(t, c.Close())
	s.expectEnded(context.Canceled)

	// One who leaves is gone also when it has not read its reply.
	c = s.dial()
	c.send(waiting)
	must(t, c.Close())
	s.expectEnded(context.Canceled)
}

// TestLeft is a peer that leaves without waiting for an answer: what it asked for is done.
func TestLeft(t *testing.T) {
	s := start(t, Options{})
	c := s.dial()
	for range 50 {
		c.send(call("Note", "{}"))
	}
	must(t, c.Close())
	for range 50 {
		s.expectEnded(nil)
	}
}

func TestShutdown(t *testing.T) {
	s := start(t, Options{})
	c, idle := s.dial(), s.dial()
	idle.send(call("Echo", `{"text":"a"}`))
	idle.expectText("a")
	c.send(waiting)
	_, err := readReply(c.in)
	must(t, err)
	s.stop()
	c.expect(testName + ".ShuttingDown")
	c.expectEnd()
	idle.expectEnd()
}

// TestPeer asks the kernel for what else there is to know about who calls.
func TestPeer(t *testing.T) {
	path := testutil.TempDir(t) + "/s"
	l, err := Listen(t.Context(), path, 0o600)
	must(t, err)
	if fi, err := os.Stat(path); err != nil || fi.Mode().Perm() != 0o600 {
		t.Error(fi, err)
	}
	ctx, stop := context.WithCancel(t.Context())
	peer := func(_ context.Context, c *Call) error {
		_, err := c.Peer.Groups()
		if err == nil && sys.TryPeerPidfd() == nil {
			var fd int
			if fd, err = c.Peer.Pidfd(); err == nil {
				err = sys.Close(fd)
			}
		}
		if err == nil && int(c.Peer.UID) != os.Geteuid() {
			err = errors.New("another user")
		}
		return err
	}
	s := New(Options{ErrorInterface: testName, Failed: func(_ *Peer, _ string, err error) { t.Error(err) }},
		Interface{testName, "", map[string]Method{"Peer": peer}})
	done := make(chan error)
	go func() { done <- s.Serve(ctx, l) }()
	c, err := Dial(t.Context(), path)
	must(t, err)
	must(t, c.Call(t.Context(), testName+".Peer", nil, nil))
	must(t, c.Close())
	stop()
	must(t, <-done)
}

func TestPython(t *testing.T) {
	testutil.Require(t, testutil.Program("python3"))
	s := start(t, Options{})
	python := func(method, parameters, more string) string {
		t.Helper()
		out, err := exec.Command("python3", "testdata/client.py", s.path, method, parameters, more).CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		return string(out)
	}
	want := `{"parameters": {"interfaces": ["io.sockwatch.Test", "org.varlink.service"], "product": "test", ` +
		`"url": "https://example.org", "vendor": "sockwatch", "version": "1"}}` + "\n"
	if got := python(serviceName+".GetInfo", "{}", ""); got != want {
		t.Error(got)
	}
	for _, name := range []string{serviceName, testName} {
		got := python(serviceName+".GetInterfaceDescription", `{"interface":"`+name+`"}`, "")
		if !strings.Contains(got, `\ninterface `+name+`\n`) {
			t.Error(got)
		}
	}
	if got := python(testName+".Echo", `{"text":"x"}`, ""); !strings.Contains(got, `"text": "x"`) {
		t.Error(got)
	}
	want = `{"continues": true, "parameters": {"n": 1}}` + "\n" + `{"parameters": {"n": 2}}` + "\n"
	if got := python(testName+".Count", `{"to":2}`, "more"); got != want {
		t.Error(got)
	}
	want = `{"error": "io.sockwatch.Test.Refused", "parameters": {"why": "so"}}` + "\n"
	if got := python(testName+".Refuse", `{}`, ""); got != want {
		t.Error(got)
	}
}
