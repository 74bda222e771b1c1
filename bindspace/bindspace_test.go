package bindspace

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/sockwatch/sockwatch/internal/sys"
	"github.com/sockwatch/sockwatch/internal/testutil"
)

func TestMain(m *testing.M) { testutil.Main(m) }

func newWatcher(t *testing.T, o Options) *Watcher {
	t.Helper()
	w, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.Close() })
	return w
}

// each runs a test with inotify alone and, where it is allowed, with fanotify.
func each(t *testing.T, test func(t *testing.T, w *Watcher)) {
	t.Run("inotify", func(t *testing.T) { test(t, newWatcher(t, Options{InotifyOnly: true})) })
	t.Run("fanotify", func(t *testing.T) {
		testutil.Require(t, testutil.Root)
		w := newWatcher(t, Options{})
		if !w.Fanotify() {
			t.Fatal("root has no fanotify here")
		}
		test(t, w)
	})
}

// read waits until there is something to read, and reads it. What it yields is told to be of the Dir with that path.
func read(t *testing.T, w *Watcher) []Event {
	t.Helper()
	var fds []unix.PollFd
	for _, fd := range w.Fds() {
		fds = append(fds, unix.PollFd{Fd: int32(fd), Events: unix.POLLIN})
	}
	n, err := unix.Poll(fds, 60_000)
	for err == unix.EINTR { // Go's runtime sends signals
		n, err = unix.Poll(fds, 60_000)
	}
	if err != nil || n == 0 {
		t.Fatalf("nothing happened: %v", err)
	}
	return readNow(t, w)
}

func readNow(t *testing.T, w *Watcher) []Event {
	t.Helper()
	var events []Event
	if err := w.Read(func(batch []Event) {
		if len(batch) > batchMost {
			t.Errorf("%d events at once", len(batch))
		}
		events = append(events, batch...)
	}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for _, e := range events {
			e.Close()
		}
	})
	return events
}

func listen(t *testing.T, path string) *net.UnixListener {
	t.Helper()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

// want checks that exactly one event came, and gives it.
func want(t *testing.T, events []Event, op Op, d *Dir, name string) Event {
	t.Helper()
	if len(events) != 1 || events[0].Op != op || events[0].Dir != d || events[0].Name != name {
		t.Fatalf("got %+v, want op %d of %s in %s", events, op, name, d.Path())
	}
	return events[0]
}

func TestAppearAndVanish(t *testing.T) {
	each(t, func(t *testing.T, w *Watcher) {
		dir := testutil.TempDir(t)
		d, err := w.WatchSpace(dir)
		if err != nil {
			t.Fatal(err)
		}
		l := listen(t, dir+"/a")
		e := want(t, read(t, w), Appeared, d, "a")
		if w.Fanotify() && (e.Process == nil || e.Process.PID() != os.Getpid()) {
			t.Errorf("who made it: %+v", e)
		}
		if d.File(e.Name) != dir+"/a" {
			t.Errorf("%s", d.File(e.Name))
		}
		if err := os.Rename(dir+"/a", dir+"/b"); err != nil {
			t.Fatal(err)
		}
		want(t, read(t, w), Appeared, d, "b")
		l.SetUnlinkOnClose(false)
		if err := os.Remove(dir + "/b"); err != nil {
			t.Fatal(err)
		}
		want(t, read(t, w), Vanished, d, "b")

		d.Release()
		listen(t, dir+"/unseen")
		if events := readNow(t, w); len(events) > 0 {
			t.Errorf("after Release: %+v", events)
		}
		if len(w.nodes)+len(w.marks)+len(w.dirs) > 0 {
			t.Errorf("left: %v %v %v", w.nodes, w.marks, w.dirs)
		}
	})
}

// A maker that is reaped before its event is read is told to be gone.
func TestGoneMaker(t *testing.T) {
	testutil.Require(t, testutil.Root)
	w := newWatcher(t, Options{})
	dir := testutil.TempDir(t)
	if _, err := w.WatchSpace(dir); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("/bin/sh", "-c", `: > "$1"`, "sh", dir+"/x")
	if err := cmd.Run(); err != nil {
		t.Fatal(err)
	}
	e := read(t, w)[0]
	if e.Process != nil || e.PID != cmd.Process.Pid {
		t.Errorf("%+v", e)
	}
}

func TestMissingIsMade(t *testing.T) {
	w := newWatcher(t, Options{})
	dir := filepath.Join(testutil.TempDir(t), "one", "two")
	d, err := w.WatchSpace(dir)
	if err != nil {
		t.Fatal(err)
	}
	if st, err := os.Stat(dir); err != nil || st.Mode().Perm() != 0o700 {
		t.Errorf("%v %v", st, err)
	}
	listen(t, dir+"/a")
	want(t, read(t, w), Appeared, d, "a")
}

// A directory that is removed, or moved away, and made again is watched again, and is to be looked at as a whole.
func TestRemade(t *testing.T) {
	each(t, func(t *testing.T, w *Watcher) {
		parent := testutil.TempDir(t)
		dir := filepath.Join(parent, "space")
		d, err := w.WatchSpace(dir)
		if err != nil {
			t.Fatal(err)
		}
		// Who works in it keeps it open, and then the kernel does not tell of its removal.
		fd, err := sys.OpenDir(unix.AT_FDCWD, dir)
		if err != nil {
			t.Fatal(err)
		}
		defer sys.Close(fd)
		for i, lose := range []func() error{
			func() error { return os.Remove(dir) },
			func() error { return os.Rename(dir, filepath.Join(parent, "elsewhere")) },
		} {
			if err := lose(); err != nil {
				t.Fatal(err)
			}
			read(t, w) // it may say Rescan, of a directory that is not there
			if err := os.Mkdir(dir, 0o700); err != nil {
				t.Fatal(err)
			}
			name := strconv.Itoa(i)
			l := listen(t, dir+"/"+name)
			seen := map[Op]bool{}
			for !seen[Rescan] {
				for _, e := range read(t, w) {
					seen[e.Op] = true
				}
			}
			listen(t, dir+"/again"+name)
			want(t, read(t, w), Appeared, d, "again"+name)
			l.Close()
			os.Remove(dir + "/again" + name)
			for len(readNow(t, w)) > 0 {
			}
			os.RemoveAll(dir)
			if err := os.Mkdir(dir, 0o700); err != nil {
				t.Fatal(err)
			}
			for len(readNow(t, w)) > 0 {
			}
		}
	})
}

// The directory of a file to come may itself be still to come, several levels of it.
func TestParentToCome(t *testing.T) {
	w := newWatcher(t, Options{})
	top := testutil.TempDir(t)
	dir := filepath.Join(top, "a", "b", "c")
	d, err := w.WatchParent(dir + "/")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	listen(t, dir+"/s")
	rescan := false
	for !rescan {
		for _, e := range read(t, w) {
			rescan = rescan || (e.Op == Rescan && e.Dir == d)
		}
	}
	listen(t, dir+"/t")
	want(t, read(t, w), Appeared, d, "t")
}

// Uses of one path are counted; other paths to the same directory stand for themselves.
func TestCounting(t *testing.T) {
	each(t, func(t *testing.T, w *Watcher) {
		dir := testutil.TempDir(t)
		link := filepath.Join(testutil.TempDir(t), "link")
		if err := os.Symlink(dir, link); err != nil {
			t.Fatal(err)
		}
		one, err := w.WatchSpace(dir)
		if err != nil {
			t.Fatal(err)
		}
		two, err := w.WatchSpace(dir)
		if err != nil || two != one {
			t.Fatalf("%p %p %v", one, two, err)
		}
		other, err := w.WatchSpace(link)
		if err != nil || other == one {
			t.Fatal(err)
		}
		one.Release()
		listen(t, dir+"/a")
		if events := read(t, w); len(events) != 2 {
			t.Errorf("%+v", events)
		}
		two.Release()
		listen(t, dir+"/b")
		want(t, read(t, w), Appeared, other, "b")
		other.Release()
	})
}

func TestNotADirectory(t *testing.T) {
	w := newWatcher(t, Options{})
	file := filepath.Join(testutil.TempDir(t), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := w.WatchSpace(file); err == nil {
		t.Error("a file is no bindspace")
	}
}
