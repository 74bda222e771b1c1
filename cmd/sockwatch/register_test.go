package main

import (
	"bufio"
	"context"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sockwatch/sockwatch/client"
	"github.com/sockwatch/sockwatch/internal/testutil"
	"github.com/sockwatch/sockwatch/pidfd"
)

// TestRunKilled: whatever way run knows of a file, when run is killed the daemon removes it at its process's end.
func TestRunKilled(t *testing.T) {
	for name, scene := range map[string]struct {
		flags  []string
		script string // what run runs, in a directory of its own, that binds s
	}{
		"named":     {[]string{"--bind", "s"}, "exec puppet listen s say bound pause"},
		"bindspace": {[]string{"--bindspace", "."}, "puppet listen s say bound pause & wait"},
		"reported":  {nil, "mkfifo up; puppet listen s say bound tell up pause & read pid <up; sockwatch notify --pid $pid BIND=$PWD/s; wait"},
	} {
		t.Run(name, func(t *testing.T) {
			runtime := startDaemon(t)
			events := monitor(t, runtime)
			dir := testutil.TempDir(t)
			args := append([]string{"run", "--runtime-dir", runtime}, scene.flags...)
			run := exec.Command("sockwatch", append(args, "--", "sh", "-c", scene.script)...)
			run.Dir, run.Stderr = dir, os.Stderr
			started := testutil.Start(t, run)
			started.Expect("bound")
			claimed := events.next(t, "claim", dir+"/s")
			id, err := pidfd.ParseIdentity(claimed.Process)
			if err != nil {
				t.Fatal(err)
			}
			server, err := id.Open()
			if err != nil {
				t.Fatal(err)
			}
			defer server.Close()
			started.Kill()
			if _, err := os.Lstat(dir + "/s"); err != nil {
				t.Error(err)
			}
			if err := server.Signal(unix.SIGKILL); err != nil {
				t.Fatal(err)
			}
			outcome := events.next(t, "outcome", dir+"/s")
			if outcome.Outcome != "removed" {
				t.Errorf("%+v", outcome)
			}
			if _, err := os.Lstat(dir + "/s"); !os.IsNotExist(err) {
				t.Error(err)
			}
		})
	}
}

// TestRunUnregistered: that a daemon is not there which was named is told, and hinders nothing.
func TestRunUnregistered(t *testing.T) {
	dir := testutil.TempDir(t)
	cmd := exec.Command("sockwatch", "run", "--runtime-dir", dir, "--", "cat")
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	cmd.Stderr = w
	child := testutil.Start(t, cmd)
	w.Close()
	line, err := bufio.NewReader(r).ReadString('\n')
	if want := "sockwatch: not known to the daemon: process "; !strings.HasPrefix(line, want) || err != nil {
		t.Errorf("run says %q, %v; want %q", line, err, want)
	}
	child.Say("on")
	child.Expect("on")
	child.Hangup()
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
}

// startDaemon starts a daemon and returns its runtime directory when it is ready.
func startDaemon(t *testing.T) (runtime string) {
	t.Helper()
	runtime = testutil.TempDir(t)
	ready, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: filepath.Join(testutil.TempDir(t), "ready")})
	if err != nil {
		t.Fatal(err)
	}
	defer ready.Close()
	cmd := exec.Command("sockwatch", "daemon", "--runtime-dir", runtime)
	cmd.Env = append(os.Environ(), "NOTIFY_SOCKET="+ready.LocalAddr().String())
	cmd.Stderr = os.Stderr
	testutil.Start(t, cmd)
	b := make([]byte, 4096)
	n, err := ready.Read(b)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(string(b[:n]), "READY=1") {
		t.Fatalf("the daemon says %q", b[:n])
	}
	return runtime
}

// monitored is the stream of a daemon's Events.
type monitored chan client.Event

// monitor returns when the stream has begun.
func monitor(t *testing.T, runtime string) monitored {
	t.Helper()
	d, err := client.Dial(t.Context(), filepath.Join(runtime, client.ControlName))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute) // an Event that does not come fails the test
	events, begun, ended := make(monitored, 1000), make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		defer close(events)
		for m, err := range d.Monitor(ctx) {
			switch {
			case err != nil:
				return
			case m.Event.Type == "":
				close(begun)
			default:
				events <- m.Event
			}
		}
	}()
	t.Cleanup(func() {
		cancel()
		<-ended
		d.Close()
	})
	<-begun
	return events
}

// next is the next Event of that type about that path.
func (m monitored) next(t *testing.T, what, path string) client.Event {
	t.Helper()
	for e := range m {
		if e.Type == what && e.Exact() == path {
			return e
		}
	}
	t.Fatalf("there was no %s of %s", what, path)
	return client.Event{}
}
