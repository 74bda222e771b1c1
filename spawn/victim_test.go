package spawn

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sockwatch/sockwatch/internal/testutil"
	"github.com/sockwatch/sockwatch/pidfd"
	"github.com/sockwatch/sockwatch/reap"
	"github.com/sockwatch/sockwatch/watch"
)

func open(t *testing.T, pid int) *pidfd.Process {
	t.Helper()
	p, err := pidfd.Open(pid)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	return p
}

// That its watcher is gone, or looks away, says nothing of the process: it is still killed.
func TestHardKillOfUnwatchedChild(t *testing.T) {
	for name, unwatch := range map[string]func(*testing.T, *watch.Watcher, *Child){
		"closed": func(t *testing.T, w *watch.Watcher, _ *Child) {
			if err := w.Close(); err != nil {
				t.Error(err)
			}
		},
		"released": func(t *testing.T, _ *watch.Watcher, c *Child) {
			if err := c.Owner().Release(); err != nil {
				t.Error(err)
			}
			<-c.Owner().Exited()
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWatcher(t)
			path := testutil.TempDir(t) + "/s"
			c := launch(t, w, watch.OwnerOptions{Paths: []string{path}}, "stubborn", path)
			p := open(t, c.PID())
			unwatch(t, w, c.Child)
			r := c.HardKill(t.Context(), KillOptions{TerminateAfter: time.Millisecond})
			if !r.Killed || r.Err != nil {
				t.Errorf("%+v", r)
			}
			if exit := p.Exit(); exit.Known && exit.Signal != unix.SIGKILL {
				t.Errorf("%v", exit)
			}
			if _, err := os.Lstat(path); err != nil {
				t.Error(err)
			}
		})
	}
}

// stubbornHeir has a child that ignores SIGTERM and holds what it binds.
const stubbornHeir = `
import os, signal, socket, sys
s = socket.socket(socket.AF_UNIX)
s.bind(sys.argv[1])
s.listen()
if os.fork() == 0:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    print("ready", flush=True)
signal.pause()
`

// What was handed on to a descendant before that was killed is gone when HardKill returns, and the results say so.
func TestTreeThatWasHandedOn(t *testing.T) {
	interpreter := python(t)
	for range 5 {
		path := testutil.TempDir(t) + "/s"
		w := newWatcher(t)
		events := w.Subscribe(64)
		cmd := exec.Command(interpreter, "-c", stubbornHeir, path)
		stdout, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		c, err := Start(t.Context(), w, cmd, watch.OwnerOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := stdout.Read(make([]byte, 16)); err != nil {
			t.Error(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		r := c.HardKill(ctx, KillOptions{Tree: true, TerminateAfter: time.Hour, Ask: func(context.Context) error {
			defer cancel()
			if err := c.Signal(unix.SIGTERM); err != nil {
				return err
			}
			for e := range events.C() {
				if e.Kind == watch.KindOutcome {
					break
				}
			}
			return nil
		}})
		cancel()
		events.Close()
		wantGone(t, path)
		if r.Err != nil || !r.Killed || len(r.Files) != 1 || r.Files[0].Outcome == reap.OutcomeAlive || !r.Files[0].Outcome.OK() {
			t.Errorf("%+v", r)
		}
	}
}

// A descendant that may not be signalled is not waited for, and told of.
func TestTreeWithForeignDescendant(t *testing.T) {
	testutil.Require(t, testutil.Root)
	child := testutil.Start(t, exec.Command(python(t), "-c", `
import os, signal, sys
if os.fork() == 0:
    sys.stdin.read()
    os._exit(0)
os.setresuid(65534, 65534, 65534)
print("ready", flush=True)
signal.pause()
`))
	child.Expect("ready")
	p := open(t, child.PID())
	t.Run("", func(t *testing.T) {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, 65534, 65534, 65534); errno != 0 {
			t.Fatal(errno)
		}
		// No deadline: it must not be waited for.
		r := HardKill(context.Background(), p, KillOptions{Tree: true, TerminateAfter: time.Hour}, reap.Target{})
		if !errors.Is(r.Err, pidfd.ErrPermission) || r.Killed {
			t.Errorf("%+v", r)
		}
	})
	child.Hangup()
}

// A context that ends right after SIGKILL leaves its effect the time that it takes.
func TestContextThatEndsAfterSIGKILL(t *testing.T) {
	child := testutil.Start(t, exec.Command("cat"))
	p := open(t, child.PID())
	ctx, cancel := context.WithCancel(t.Context())
	first := true
	v := &victim{root: p, wait: func(ctx context.Context) error {
		if first {
			first = false
			cancel()
			return ctx.Err()
		}
		return p.Wait(ctx)
	}}
	defer v.close()
	if killed, err := v.kill(ctx, KillOptions{TerminateAfter: -1}, func() {}); !killed || err != nil {
		t.Errorf("%v, %v", killed, err)
	}
}

// A handle that cannot be used is an error, not a dead process.
func TestHardKillOfClosedHandle(t *testing.T) {
	p := open(t, os.Getpid())
	p.Close()
	if r := HardKill(t.Context(), p, KillOptions{}, reap.Target{}); !errors.Is(r.Err, os.ErrClosed) || r.Killed {
		t.Errorf("%+v", r)
	}
}

// The name that a process gave its sock-file is rebuilt also when the process is dead and reaped.
func TestHardKillOfReapedProcess(t *testing.T) {
	testutil.Require(t, testutil.Pidfs)
	dir := testutil.TempDir(t)
	child := testutil.Start(t, exec.Command("cat"))
	p := open(t, child.PID())
	path := dir + "/x@" + strconv.Itoa(child.PID()) + ".sock"
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(unix.Bind(fd, &unix.SockaddrUnix{Name: path}), unix.Close(fd)); err != nil {
		t.Fatal(err)
	}
	child.Kill()
	convention, err := reap.ParseConvention("{name}@{pid}.sock")
	if err != nil {
		t.Fatal(err)
	}
	r := HardKill(t.Context(), p, KillOptions{}, reap.Target{Name: "x", Bindspaces: []string{dir}, Conventions: []reap.Convention{convention}})
	if r.Err != nil || r.Killed || len(r.Files) != 1 {
		t.Errorf("%+v", r)
	}
	wantGone(t, path)
}

// We are none of those that are stopped and killed, whoever's descendant we are.
func TestTreeSparesOurselves(t *testing.T) {
	v := &victim{root: open(t, os.Getppid()), tree: true}
	defer v.close()
	v.list(nil)
	for _, p := range v.descendants {
		if p.PID() == os.Getpid() {
			t.Error("we are listed")
		}
	}
}

// A descendant that has the pid of one that was reaped is a new one.
func TestTreeWithPidUsedAgain(t *testing.T) {
	reaped := testutil.Start(t, exec.Command("cat"))
	gone := open(t, reaped.PID())
	reaped.Kill()
	child := testutil.Start(t, exec.Command("cat"))
	v := &victim{root: open(t, os.Getpid()), tree: true, known: map[int]*pidfd.Process{child.PID(): gone}}
	defer v.close()
	v.list(nil)
	for _, p := range v.descendants {
		if p.PID() == child.PID() {
			return
		}
	}
	t.Error("it is not listed")
}

// That asking was called back is no failure, in time or not.
func TestAskThatIsCalledBack(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := callAsk(ctx, func(ctx context.Context) error { return ctx.Err() }); err != nil {
		t.Error(err)
	}
	if err := callAsk(t.Context(), func(context.Context) error { return context.DeadlineExceeded }); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("its own deadline: %v", err)
	}
}
