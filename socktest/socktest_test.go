package socktest

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/sockwatch/sockwatch/internal/sys"
	"github.com/sockwatch/sockwatch/internal/testutil"
	"github.com/sockwatch/sockwatch/pidfd"
	"github.com/sockwatch/sockwatch/reap"
)

// recorder is a test that may fail.
type recorder struct {
	*testing.T
	cleanups       []func()
	failed, logged []string
	temp           string
}

func (r *recorder) Cleanup(f func()) { r.cleanups = append(r.cleanups, f) }
func (r *recorder) Errorf(format string, args ...any) {
	r.failed = append(r.failed, fmt.Sprintf(format, args...))
}

func (r *recorder) Logf(format string, args ...any) {
	r.logged = append(r.logged, fmt.Sprintf(format, args...))
}

// TempDir is as that of testing.T: each call makes a directory in that of the test, which is removed at its end.
func (r *recorder) TempDir() string {
	r.Helper()
	if r.temp == "" {
		var err error
		if r.temp, err = os.MkdirTemp("", "sw"); err != nil {
			r.Fatal(err)
		}
		r.Cleanup(func() { os.RemoveAll(r.temp) })
	}
	dir, err := os.MkdirTemp(r.temp, "")
	if err != nil {
		r.Fatal(err)
	}
	return dir
}

// end does what the end of a test does.
func (r *recorder) end() {
	for _, f := range slices.Backward(r.cleanups) {
		f()
	}
}

// verify runs a test, where nobody else is at work.
func verify(t *testing.T, options []Option, test func(*recorder)) *recorder {
	t.Helper()
	t.Setenv("TMPDIR", testutil.TempDir(t))
	t.Setenv("XDG_RUNTIME_DIR", "")
	r := &recorder{T: t}
	VerifyNone(r, options...)
	test(r)
	r.end()
	return r
}

// fails fails unless the test has failed, and said this of one file.
func (r *recorder) fails(words ...string) {
	r.Helper()
	if len(r.failed) != 1 || strings.Count(r.failed[0], "(inode ") != 1 {
		r.Fatalf("it says %q and logs %q, want one file", r.failed, r.logged)
	}
	for _, w := range words {
		if !strings.Contains(r.failed[0], w) {
			r.Errorf("it says %q, want %q", r.failed[0], w)
		}
	}
}

func (r *recorder) passes() {
	r.Helper()
	if len(r.failed)+len(r.logged) > 0 {
		r.Errorf("it says %q and logs %q", r.failed, r.logged)
	}
}

func inode(t *testing.T, path string) string {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("(inode %d,", st.Ino)
}

func TestClosed(t *testing.T) {
	var path, ino string
	r := verify(t, nil, func(r *recorder) {
		path = r.TempDir() + "/s"
		leave(t, path)
		ino = inode(t, path)
	})
	r.fails("socktest: a sock-file was left behind dead: "+path+" ", ino)
}

func TestOwnDirectory(t *testing.T) {
	testutil.Require(t, toldApart)
	var path string
	r := verify(t, nil, func(r *recorder) {
		path = testutil.TempDir(t) + "/s" // one of os.TempDir that is not there before
		leave(t, path)
	})
	r.fails(path)
}

func TestRuntimeDirectory(t *testing.T) {
	runtime := testutil.TempDir(t)
	if err := os.Mkdir(runtime+"/before", 0o700); err != nil {
		t.Fatal(err)
	}
	t.Setenv("TMPDIR", testutil.TempDir(t))
	t.Setenv("XDG_RUNTIME_DIR", runtime)
	r := &recorder{T: t}
	VerifyNone(r)
	leave(t, runtime+"/before/a")
	if err := os.MkdirAll(runtime+"/1/2", 0o700); err != nil {
		t.Fatal(err)
	}
	leave(t, runtime+"/1/2/b")
	r.end()
	// Without fanotify nobody may have seen who it was.
	said := strings.Join(append(r.failed, r.logged...), "\n")
	for _, path := range []string{runtime + "/before/a", runtime + "/1/2/b"} {
		if strings.Count(said, path+" (inode ") != 1 {
			t.Errorf("%s: it says %q", path, said)
		}
	}
}

func TestKilled(t *testing.T) {
	var pid int
	r := verify(t, nil, func(r *recorder) {
		c := child(t)
		pid = c.PID()
		tell(c, "bind "+r.TempDir()+"/s")
		c.Kill()
	})
	r.fails("/s (inode ")
	if known := fmt.Sprintf("bound by process %d (", pid); strings.Contains(r.failed[0], known) &&
		!strings.Contains(r.failed[0], ", killed by SIGKILL)") && !strings.Contains(r.failed[0], pidfd.ReasonNotKept) {
		t.Error(r.failed)
	}
}

func TestExits(t *testing.T) {
	r := verify(t, nil, func(r *recorder) {
		c := child(t)
		tell(c, "bind "+r.TempDir()+"/s")
		c.Say("exit")
		_ = c.Cmd.Wait()
	})
	r.fails("/s (inode ")
}

func TestRemovedInTime(t *testing.T) {
	verify(t, nil, func(r *recorder) {
		path := r.TempDir() + "/s"
		leave(t, path)
		r.Cleanup(func() { os.Remove(path) })
		l, err := bind(r.TempDir() + "/s")
		if err != nil {
			t.Fatal(err)
		}
		l.SetUnlinkOnClose(true)
		l.Close()
	}).passes()
}

func TestAlive(t *testing.T) {
	dir := testutil.TempDir(t)
	verify(t, []Option{Dir(dir)}, func(r *recorder) {
		l, err := bind(dir + "/own")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { l.Close() })
		tell(child(t), "bind "+dir+"/child")
	}).passes()
}

func TestBefore(t *testing.T) {
	dir := testutil.TempDir(t)
	leave(t, dir+"/a")
	leave(t, dir+"/b")
	f, err := reap.Open(dir + "/b")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	born, err := f.Born()
	if err != nil {
		t.Fatal(err)
	}
	for !sys.FileTime().After(born) { // what was made in the tick in which the test begins can be taken for new
		runtime.Gosched()
	}
	verify(t, []Option{Dir(dir)}, func(r *recorder) {
		if err := os.Rename(dir+"/a", dir+"/renamed"); err != nil {
			t.Fatal(err)
		}
		if err := os.Link(dir+"/b", dir+"/linked"); err != nil {
			t.Fatal(err)
		}
		if err := os.Remove(dir + "/b"); err != nil { // nobody judges a file that has two names
			t.Fatal(err)
		}
	}).passes()
}

func TestIgnore(t *testing.T) {
	dir := testutil.TempDir(t)
	r := verify(t, []Option{Dir(dir), Ignore("known-*", dir+"/a/*")}, func(r *recorder) {
		if err := os.Mkdir(dir+"/a", 0o700); err != nil {
			t.Fatal(err)
		}
		leave(t, dir+"/known-1")
		leave(t, dir+"/a/s")
	})
	r.passes()
}

func TestWarn(t *testing.T) {
	r := verify(t, []Option{Warn()}, func(r *recorder) { leave(t, r.TempDir()+"/s") })
	if len(r.failed) != 0 || len(r.logged) != 1 || !strings.Contains(r.logged[0], "left behind dead") {
		t.Errorf("it says %q and logs %q", r.failed, r.logged)
	}
}

func TestReap(t *testing.T) {
	testutil.Require(t, toldApart)
	dir := testutil.TempDir(t)
	var own string
	r := verify(t, []Option{Dir(dir), Reap()}, func(r *recorder) {
		own = dir + "/own"
		if err := os.Mkdir(own, 0o700); err != nil {
			t.Fatal(err)
		}
		leave(t, own+"/s")
	})
	r.fails("; removed")
	if _, err := os.Lstat(own + "/s"); !os.IsNotExist(err) {
		t.Error(err)
	}
}

func TestWrongOption(t *testing.T) {
	for _, o := range []Option{Dir("/none/at/all"), Dir(os.Args[0]), Ignore("[")} {
		r := &recorder{T: t}
		VerifyNone(r, o)
		if len(r.failed) != 1 || len(r.cleanups) > 0 {
			t.Errorf("it says %q", r.failed)
		}
	}
}

func TestName(t *testing.T) {
	r := verify(t, nil, func(r *recorder) { leave(t, r.TempDir()+"/a\x1b[1m\xff") })
	r.fails(`/a\x1b[1m\xff" (inode `)
}

// The goroutine that looks is there until the cleanup, and not after it.
func TestWithGoleak(t *testing.T) {
	before := goleak.IgnoreCurrent()
	verify(t, nil, func(*recorder) {
		defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	}).passes()
	goleak.VerifyNone(t, before)
}

func TestVerifyTestMain(t *testing.T) {
	t.Parallel()
	testutil.Require(t, toldApart)
	for _, test := range []struct {
		helper string
		lines  []string
		status int
		says   string
	}{
		{"main", []string{"bind s", "close"}, 1, "left behind dead: "},
		{"main", []string{"bind s", "status"}, 4, ""},
		{"main", []string{"bind s", "close", "status"}, 4, "left behind dead: "},
		{"main", nil, 0, ""},
		{"warns", []string{"bind s", "close"}, 0, "; removed\n"},
	} {
		runtime := testutil.TempDir(t)
		own := filepath.Join(runtime, "s")
		cmd := testutil.Command(t, test.helper)
		cmd.Env = append(cmd.Env, "XDG_RUNTIME_DIR="+runtime, "TMPDIR="+runtime) // not where other tests work
		var stderr strings.Builder
		cmd.Stderr = &stderr
		c := testutil.Start(t, cmd)
		for _, line := range test.lines {
			if line == "bind s" {
				line = "bind " + own
			}
			tell(c, line)
		}
		c.Hangup()
		err := cmd.Wait()
		if status := cmd.ProcessState.ExitCode(); status != test.status {
			t.Errorf("%s %q: %v, want %d\n%s", test.helper, test.lines, err, test.status, stderr.String())
		}
		if said := stderr.String(); !strings.Contains(said, test.says) || test.says == "" && said != "" {
			t.Errorf("%s %q says %q, want %q", test.helper, test.lines, said, test.says)
		}
	}
}
