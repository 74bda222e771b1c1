package spawn

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sockwatch/sockwatch/internal/testutil"
	"github.com/sockwatch/sockwatch/pidfd"
	"github.com/sockwatch/sockwatch/reap"
	"github.com/sockwatch/sockwatch/watch"
)

func newWatcher(t *testing.T) *watch.Watcher {
	t.Helper()
	w, err := watch.New(watch.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = w.Close() })
	return w
}

// started is a python child that has bound what it was told to.
type started struct {
	*Child
	pid    int           // of who said that it is ready
	hangup io.Closer     // its standard input
	said   *bufio.Reader // its standard output
}

// interpreter is python itself: what PATH has can be a slow script in front of it.
var interpreter = sync.OnceValues(func() (string, error) {
	out, err := exec.Command("python3", "-c", "import sys; print(sys.executable)").Output()
	return strings.TrimSpace(string(out)), err
})

func python(t *testing.T) string {
	t.Helper()
	testutil.Require(t, testutil.Program("python3"))
	path, err := interpreter()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// launch starts testdata/child.py under w and waits until it has bound.
func launch(t *testing.T, w *watch.Watcher, o watch.OwnerOptions, args ...string) started {
	t.Helper()
	script, err := filepath.Abs("testdata/child.py")
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(python(t), append([]string{script}, args...)...)
	cmd.Dir = testutil.TempDir(t)
	stdin, stdinW, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	stdoutR, stdout, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = stdin, stdout, os.Stderr
	c, err := Start(t.Context(), w, cmd, o)
	stdin.Close()
	stdout.Close()
	t.Cleanup(func() { stdinW.Close(); stdoutR.Close() })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.HardKill(context.Background(), KillOptions{TerminateAfter: -1}) })

	s := started{Child: c, hangup: stdinW, said: bufio.NewReader(stdoutR)}
	line, err := s.said.ReadString('\n')
	if err != nil {
		t.Fatalf("the child said %q: %v", line, err)
	}
	if _, s.pid, err = parseLine(line); err != nil {
		t.Fatal(err)
	}
	return s
}

func parseLine(line string) (word string, pid int, err error) {
	word, number, _ := strings.Cut(strings.TrimSpace(line), " ")
	pid, err = strconv.Atoi(number)
	return word, pid, err
}

func wantGone(t *testing.T, paths ...string) {
	t.Helper()
	for _, path := range paths {
		if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s is still there (%v)", path, err)
		}
	}
}

func wantRebind(t *testing.T, path string) {
	t.Helper()
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Errorf("an immediate rebind: %v", err)
		return
	}
	l.Close()
}

// However a child ends, what it made in its bindspace is gone when Wait returns.
func TestEveryEnd(t *testing.T) {
	sigkill := func(t *testing.T, c started) { signalPID(t, c.PID(), unix.SIGKILL) }
	for name, test := range map[string]struct {
		way string
		end func(*testing.T, started)
	}{
		"HardKill":             {"sleep", func(t *testing.T, c started) { c.HardKill(t.Context(), KillOptions{}) }},
		"HardKill of stubborn": {"stubborn", func(t *testing.T, c started) { c.HardKill(t.Context(), KillOptions{TerminateAfter: time.Millisecond}) }},
		"SIGKILL from outside": {"sleep", sigkill},
		"SIGTERM from outside": {"sleep", func(t *testing.T, c started) { signalPID(t, c.PID(), unix.SIGTERM) }},
		"SIGSEGV":              {"segv", func(*testing.T, started) {}},
		"_exit":                {"_exit", func(*testing.T, started) {}},
		"clean exit":           {"exit", func(*testing.T, started) {}},
		"exit with unlink":     {"unlink", func(*testing.T, started) {}},
		"between bind, listen": {"unlistened", sigkill},
	} {
		t.Run(name, func(t *testing.T) {
			dir := testutil.TempDir(t)
			convention, err := reap.ParseConvention("{name}@{pid}.sock")
			if err != nil {
				t.Fatal(err)
			}
			o := watch.OwnerOptions{Name: "child", Bindspaces: []string{dir}, Conventions: []reap.Convention{convention}}
			c := launch(t, newWatcher(t), o, test.way, filepath.Join(dir, "child@{pid}.sock"), "dgram:"+dir+"/d", "seqpacket:"+dir+"/s", dir+"/any other name")
			test.end(t, c)
			_ = c.Wait()
			wantGone(t, filepath.Join(dir, "child@"+strconv.Itoa(c.PID())+".sock"), dir+"/d", dir+"/s", dir+"/any other name")
			for _, r := range c.Owner().Results() {
				if !r.Outcome.OK() || r.Outcome == reap.OutcomeAlive {
					t.Errorf("%+v", r)
				}
			}
			wantRebind(t, dir+"/d")
		})
	}
}

func signalPID(t *testing.T, pid int, sig unix.Signal) {
	t.Helper()
	p, err := pidfd.Open(pid)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	if err := p.Signal(sig); err != nil {
		t.Fatal(err)
	}
}

// What nobody named, in a directory that is no bindspace, under names that fit nothing, is found by HardKill's look at
// what the child holds: whether asking was enough or not.
func TestHardKillFindsWhatNobodyTold(t *testing.T) {
	for _, way := range []string{"sleep", "stubborn"} {
		t.Run(way, func(t *testing.T) {
			dir := testutil.TempDir(t)
			c := launch(t, newWatcher(t), watch.OwnerOptions{}, way, dir+"/a", "dgram:"+dir+"/b", "seqpacket:"+dir+"/line\nbreak")
			patience := time.Hour
			if way == "stubborn" {
				patience = 50 * time.Millisecond
			}
			r := c.HardKill(t.Context(), KillOptions{TerminateAfter: patience})
			if r.Err != nil || r.SnapshotErr != nil || len(r.Files) != 3 || r.Killed != (way == "stubborn") {
				t.Errorf("%+v", r)
			}
			wantGone(t, dir+"/a", dir+"/b", dir+"/line\nbreak")
		})
	}
}

func TestHardKillOfAnyProcess(t *testing.T) {
	dir := testutil.TempDir(t)
	c := launch(t, newWatcher(t), watch.OwnerOptions{}, "sleep", dir+"/told by nobody")
	p, err := pidfd.Open(c.PID())
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	r := HardKill(t.Context(), p, KillOptions{Signal: unix.SIGHUP, TerminateAfter: time.Hour}, reap.Target{Paths: []string{dir + "/never there"}})
	if r.Err != nil || r.Killed {
		t.Errorf("%+v", r)
	}
	wantGone(t, dir+"/told by nobody")
	if again := HardKill(t.Context(), p, KillOptions{}, reap.Target{}); again.Err != nil || again.Killed {
		t.Errorf("on a dead process: %+v", again)
	}
}

func TestRelativeBindAfterChdir(t *testing.T) {
	dir := testutil.TempDir(t)
	c := launch(t, newWatcher(t), watch.OwnerOptions{Bindspaces: []string{dir}}, "sleep", "@chdir:"+dir, "relative", "@chdir:/")
	c.HardKill(t.Context(), KillOptions{TerminateAfter: -1})
	wantGone(t, dir+"/relative")
}

func TestChildThatNeverBinds(t *testing.T) {
	dir := testutil.TempDir(t)
	c := launch(t, newWatcher(t), watch.OwnerOptions{Paths: []string{dir + "/never"}, Bindspaces: []string{dir}}, "exit")
	if err := c.Wait(); err != nil {
		t.Error(err)
	}
	results := c.Owner().Results()
	if len(results) != 1 || results[0].Outcome != reap.OutcomeGone {
		t.Errorf("%+v", results)
	}
}

// A listener that a forked child has inherited keeps the file, until that child is dead, too.
func TestInheritedListener(t *testing.T) {
	dir := testutil.TempDir(t)
	w := newWatcher(t)
	events := w.Subscribe(64)
	defer events.Close()
	c := launch(t, w, watch.OwnerOptions{Bindspaces: []string{dir}}, "heir", dir+"/inherited")
	r := c.HardKill(t.Context(), KillOptions{TerminateAfter: -1})
	if len(r.Files) != 1 || r.Files[0].Outcome != reap.OutcomeAlive || r.Files[0].Reason != reap.ReasonHolder {
		t.Fatalf("%+v", r)
	}
	if _, err := os.Lstat(dir + "/inherited"); err != nil {
		t.Fatal(err)
	}
	c.hangup.Close() // the heir ends
	for e := range events.C() {
		if e.Kind == watch.KindOutcome && e.Result.Outcome == reap.OutcomeRemoved {
			if e.Owner.PID != c.pid {
				t.Errorf("removed at the end of %d, not of the heir %d", e.Owner.PID, c.pid)
			}
			break
		}
	}
	wantGone(t, dir+"/inherited")
}

// A tree is killed whole: the heir cannot keep the file.
func TestTree(t *testing.T) {
	dir := testutil.TempDir(t)
	c := launch(t, newWatcher(t), watch.OwnerOptions{}, "heir", dir+"/inherited")
	heir, err := pidfd.Open(c.pid)
	if err != nil {
		t.Fatal(err)
	}
	defer heir.Close()
	r := c.HardKill(t.Context(), KillOptions{TerminateAfter: time.Millisecond, Tree: true})
	if exited, err := heir.Exited(); !exited || err != nil {
		t.Errorf("the heir is there still: %v %v", exited, err)
	}
	wantGone(t, dir+"/inherited")
	if r.Err != nil {
		t.Error(r.Err)
	}
}

// Killing again and again, from several goroutines, is one kill.
func TestHardKillIsIdempotent(t *testing.T) {
	dir := testutil.TempDir(t)
	c := launch(t, newWatcher(t), watch.OwnerOptions{}, "stubborn", dir+"/s")
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			if r := c.HardKill(t.Context(), KillOptions{TerminateAfter: 10 * time.Millisecond}); r.Err != nil || !r.Exit.Known || r.Exit.Signal != unix.SIGKILL {
				t.Errorf("%+v", r)
			}
		})
	}
	all.Wait()
	wantGone(t, dir+"/s")
	if r := c.HardKill(t.Context(), KillOptions{}); r.Err != nil || r.Killed || len(r.Files) != 1 {
		t.Errorf("once more: %+v", r)
	}
	var exit *exec.ExitError
	if err := c.Wait(); !errors.As(err, &exit) {
		t.Errorf("Wait says %v", err)
	}
}

// Whatever asking does, the kill and the removal follow.
func TestAsk(t *testing.T) {
	for name, ask := range map[string]func(context.Context) error{
		"fails":         func(context.Context) error { return errors.New("no") },
		"panics":        func(context.Context) error { panic("no") },
		"heeds nothing": func(context.Context) error { select {} },
		"waits":         func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() },
	} {
		t.Run(name, func(t *testing.T) {
			dir := testutil.TempDir(t)
			c := launch(t, newWatcher(t), watch.OwnerOptions{}, "sleep", dir+"/s")
			if name == "heeds nothing" { // for ever: but for a test that counts goroutines
				stop := make(chan struct{})
				t.Cleanup(func() { close(stop) })
				ask = func(ctx context.Context) error { <-stop; return ctx.Err() }
			}
			ctx, patience := t.Context(), 20*time.Millisecond
			if name == "fails" || name == "panics" { // what came of it is told as far as it is known: it is to be
				began := make(chan struct{})
				answer := ask
				ask = func(ctx context.Context) error { close(began); return answer(ctx) }
				var cancel context.CancelFunc
				ctx, cancel = context.WithCancel(ctx)
				patience = time.Hour
				var over sync.WaitGroup
				defer over.Wait()
				over.Go(func() {
					defer cancel()
					<-began
					for asking() {
						runtime.Gosched()
					}
				})
			}
			r := c.HardKill(ctx, KillOptions{Ask: ask, TerminateAfter: patience})
			if !r.Killed || r.Exit.Signal != unix.SIGKILL {
				t.Errorf("%+v", r)
			}
			if recorded := r.Err != nil; recorded != (name == "fails" || name == "panics") {
				t.Errorf("recorded: %v", r.Err)
			}
			wantGone(t, dir+"/s")
		})
	}
	t.Run("succeeds", func(t *testing.T) {
		dir := testutil.TempDir(t)
		c := launch(t, newWatcher(t), watch.OwnerOptions{}, "sleep", dir+"/s")
		r := c.HardKill(t.Context(), KillOptions{Ask: func(context.Context) error { return c.Signal(unix.SIGUSR1) }, TerminateAfter: time.Hour})
		if r.Killed || r.Err != nil || r.Exit.Signal != unix.SIGUSR1 {
			t.Errorf("%+v", r)
		}
		wantGone(t, dir+"/s")
	})
}

// asking tells whether a goroutine is asking, or about to say what came of it.
func asking() bool {
	stacks := make([]byte, 1<<20)
	return strings.Contains(string(stacks[:runtime.Stack(stacks, true)]), "(*victim).ask.func")
}

// A done context ends the patience, not the kill.
func TestHardKillWithDoneContext(t *testing.T) {
	dir := testutil.TempDir(t)
	c := launch(t, newWatcher(t), watch.OwnerOptions{}, "stubborn", dir+"/s")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if r := c.HardKill(ctx, KillOptions{TerminateAfter: time.Hour}); !r.Killed || r.Exit.Signal != unix.SIGKILL {
		t.Errorf("%+v", r)
	}
	wantGone(t, dir+"/s")
}

func TestStartThatFails(t *testing.T) {
	w := newWatcher(t)
	dir := testutil.TempDir(t)
	o := watch.OwnerOptions{Paths: []string{dir + "/p"}, Bindspaces: []string{dir}}
	if _, err := Start(t.Context(), w, exec.Command(dir+"/no such program"), o); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Start(ctx, w, exec.Command("/bin/sleep", "600"), o); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := Start(t.Context(), w, exec.Command("/bin/sleep", "600"), o); !errors.Is(err, watch.ErrClosed) {
		t.Errorf("%v", err)
	}
}

// A spawn that is cancelled at any moment leaves neither a process nor a file. That no child is left is checked by TestMain.
func TestCancelDuringSpawn(t *testing.T) {
	w := newWatcher(t)
	dir := testutil.TempDir(t)
	interpreter := python(t)
	for i := range 40 {
		ctx, cancel := context.WithCancel(t.Context())
		var canceling sync.WaitGroup
		canceling.Go(func() {
			for range i * 1000 {
				_ = ctx.Err()
			}
			cancel()
		})
		path := filepath.Join(dir, strconv.Itoa(i))
		cmd := exec.Command(interpreter, "testdata/child.py", "sleep", path)
		c, err := Start(ctx, w, cmd, watch.OwnerOptions{Paths: []string{path}})
		if err == nil {
			c.HardKill(t.Context(), KillOptions{TerminateAfter: -1})
		}
		canceling.Wait()
		wantGone(t, path)
	}
}

// A file that was taken over by somebody else while the child lived is kept.
func TestReplacedFileIsKept(t *testing.T) {
	for name, replace := range map[string]func(t *testing.T, path string){
		"by a server": func(t *testing.T, path string) {
			l, err := net.Listen("unix", path)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { l.Close() })
		},
		"by a regular file": func(t *testing.T, path string) {
			if err := os.WriteFile(path, []byte("precious"), 0o600); err != nil {
				t.Fatal(err)
			}
		},
		"by a symlink": func(t *testing.T, path string) {
			if err := os.Symlink("/dev/null", path); err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := testutil.TempDir(t)
			path := dir + "/s"
			c := launch(t, newWatcher(t), watch.OwnerOptions{Paths: []string{path}}, "sleep", path)
			if err := os.Remove(path); err != nil {
				t.Fatal(err)
			}
			replace(t, path)
			r := c.HardKill(t.Context(), KillOptions{TerminateAfter: -1})
			// Where the watcher had not yet seen the child's own file, the server's is what it finds under the path.
			alive := name == "by a server" && len(r.Files) == 1 && r.Files[0].Outcome == reap.OutcomeAlive
			if !alive && (len(r.Files) != 1 || r.Files[0].Outcome != reap.OutcomeReplaced) {
				t.Errorf("%+v", r.Files)
			}
			if _, err := os.Lstat(path); err != nil {
				t.Error(err)
			}
		})
	}
}

// Nothing piles up over many kills, and the path is free at once every time.
func TestManyHardKills(t *testing.T) {
	w := newWatcher(t)
	dir := testutil.TempDir(t)
	path := dir + "/same"
	for range 200 / 10 {
		var all sync.WaitGroup
		for i := range 10 {
			all.Go(func() {
				p := path + strconv.Itoa(i)
				c := launch(t, w, watch.OwnerOptions{Bindspaces: []string{dir}}, "sleep", p)
				c.HardKill(t.Context(), KillOptions{TerminateAfter: -1})
				wantGone(t, p)
				wantRebind(t, p)
			})
		}
		all.Wait()
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) > 0 {
		t.Errorf("left: %v %v", entries, err)
	}
}
