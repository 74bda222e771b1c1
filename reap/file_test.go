package reap

import (
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/sockwatch/sockwatch/internal/testutil"
)

// TestOddNames takes sock-files through their whole life under names that are legal and rare.
func TestOddNames(t *testing.T) {
	for what, name := range map[string]string{
		"one byte":           "s",
		"spaces":             " a b  c ",
		"newline":            "a\nb\n.sock",
		"other controls":     "\x01\t\x1b[31m\x7f",
		"not UTF-8":          "\xff\xfe\xc3(",
		"UTF-8":              "сокет@1.sock",
		"leading dash":       "-rf",
		"dots":               "...",
		"backslash":          `a\nb`,
		"shorter by one":     strings.Repeat("x", privateShortest-1),
		"as long as private": strings.Repeat("x", privateLongest),
		"longest name":       strings.Repeat("n", unix.NAME_MAX),
		"deep":               strings.Repeat("d/", 100) + "deep.sock",
		"long and deep":      strings.Repeat(strings.Repeat("y", 200)+"/", 5) + strings.Repeat("z", 200),
	} {
		t.Run(what, func(t *testing.T) { live(t, filepath.Join(testutil.TempDir(t), name)) })
	}
	t.Run("108 bytes without NUL", func(t *testing.T) {
		dir := testutil.TempDir(t)
		const room = len(unix.RawSockaddrUnix{}.Path)
		live(t, dir+"/"+strings.Repeat("p", room-len(dir)-1))
	})
	t.Run("relative", func(t *testing.T) {
		t.Chdir(testutil.TempDir(t))
		live(t, "sock")
		live(t, "./sock")
		live(t, "sub/../sock")
	})
}

// live takes a sock-file from its bind to its removal.
func live(t *testing.T, path string) {
	t.Helper()
	dir, base := filepath.Split(path)
	if err := os.MkdirAll("./"+dir, 0o700); dir != "" && !filepath.IsAbs(dir) && err != nil {
		t.Fatal(err)
	}
	if filepath.IsAbs(dir) {
		must(t, os.MkdirAll(dir, 0o700))
	}
	s := bindSocket(t, path, unix.SOCK_STREAM)
	f := openFile(t, path)
	if f.Path() != path || f.name() != base {
		t.Errorf("opened %q, its path is %q and its name %q", path, f.Path(), f.name())
	}
	wantState(t, f, StateAlive, ReasonNone)
	checkRemoval(t, f, want{outcome: OutcomeAlive})
	s.die()
	wantState(t, f, StateDead, ReasonNone)
	checkRemoval(t, f, want{outcome: OutcomeRemoved})
	checkRemoval(t, f, want{outcome: OutcomeGone})
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("after removal: %v", err)
	}
}

func TestOpenErrors(t *testing.T) {
	dir := testutil.TempDir(t)
	live := filepath.Join(dir, "live")
	bindSocket(t, live, unix.SOCK_STREAM)
	file := filepath.Join(dir, "file")
	must(t, os.WriteFile(file, nil, 0o600))
	fifo := filepath.Join(dir, "fifo")
	must(t, unix.Mkfifo(fifo, 0o600))
	link := filepath.Join(dir, "link")
	loop := filepath.Join(dir, "loop")
	for from, to := range map[string]string{link: "live", loop: "loop"} {
		must(t, os.Symlink(to, from))
	}
	for _, tt := range []struct {
		path string
		err  error
	}{
		{filepath.Join(dir, "absent"), fs.ErrNotExist},
		{filepath.Join(dir, "absent", "s"), fs.ErrNotExist},
		{file, ErrNotSocket},
		{fifo, ErrNotSocket},
		{link, ErrNotSocket}, // although what it points to is one
		{loop, ErrNotSocket},
		{"/dev/null", ErrNotSocket},
		{dir, ErrNotSocket},
		{dir + "/", ErrNotSocket},
		{dir + "/.", ErrNotSocket},
		{dir + "/..", ErrNotSocket},
		{live + "/", ErrNotSocket},
		{"", fs.ErrNotExist},
		{"/", ErrNotSocket},
		{".", ErrNotSocket},
		{"..", ErrNotSocket},
		{filepath.Join(live, "s"), unix.ENOTDIR},
		{filepath.Join(loop, "s"), unix.ELOOP},
		{dir + "/" + strings.Repeat("x", unix.NAME_MAX+1), unix.ENAMETOOLONG},
		{strings.Repeat("x/", unix.PathMax) + "x", unix.ENAMETOOLONG},
	} {
		f, err := Open(tt.path)
		var pathErr *fs.PathError
		if !errors.Is(err, tt.err) || !errors.As(err, &pathErr) || pathErr.Path != tt.path {
			t.Errorf("Open(%.60q): %v; want %v with the path", tt.path, err, tt.err)
		}
		if f != nil {
			t.Errorf("Open(%.60q): both a File and an error", tt.path)
			f.Close()
		}
		rooted := "/" + tt.path
		if tt.path == "" {
			continue
		}
		f, err = OpenIn("/", rooted)
		if !errors.Is(err, tt.err) || !errors.As(err, &pathErr) {
			t.Errorf("OpenIn(/, %.60q): %v; want %v", rooted, err, tt.err)
		}
		if f != nil {
			f.Close()
		}
	}
	for _, path := range []string{live + "\x00", dir + "\x00/live"} {
		if f, err := Open(path); err == nil || !strings.Contains(err.Error(), "NUL") {
			t.Errorf("Open(%q): %v, %v", path, f, err)
		}
	}
	wantDirs(t, 0)
}

func TestOpenWithoutPermission(t *testing.T) {
	dir := testutil.TempDir(t)
	closed := filepath.Join(dir, "closed")
	must(t, os.Mkdir(closed, 0o700))
	path := filepath.Join(closed, "s")
	leaveDead(t, path)
	must(t, os.Chmod(closed, 0))
	t.Cleanup(func() { must(t, os.Chmod(closed, 0o700)) })
	must(t, os.Chmod(dir, 0o755))
	asNobody(t, func(t *testing.T) {
		if _, err := Open(path); !errors.Is(err, fs.ErrPermission) {
			t.Errorf("%v, want %v", err, fs.ErrPermission)
		}
	})
}

// asNobody runs a subtest as a user without privileges: as it is, or, when it is root, on a thread of another user.
func asNobody(t *testing.T, f func(t *testing.T)) {
	t.Helper()
	if os.Geteuid() != 0 {
		f(t)
		return
	}
	onThread(t, "nobody", func(t *testing.T, _ string) {
		become(t, nobody)
		f(t)
	})
}

// wantDirs wants that many directories open.
func wantDirs(t testing.TB, n int) {
	t.Helper()
	dirs.Lock()
	defer dirs.Unlock()
	if len(dirs.open) != n {
		t.Errorf("%d directories are open, want %d", len(dirs.open), n)
	}
}

func TestOpenFollowsSymlinksOnTheWay(t *testing.T) {
	dir := testutil.TempDir(t)
	for _, sub := range []string{"real", "moved"} {
		must(t, os.Mkdir(filepath.Join(dir, sub), 0o700))
	}
	link := filepath.Join(dir, "link")
	must(t, os.Symlink("real", link))
	leaveDead(t, filepath.Join(dir, "real", "s"))
	f := openFile(t, filepath.Join(link, "s"))

	// From then on it is that directory, wherever the link leads to and however it is called.
	must(t, os.Remove(link))
	must(t, os.Symlink("moved", link))
	bystander := filepath.Join(dir, "moved", "s")
	leaveDead(t, bystander)
	must(t, os.Rename(filepath.Join(dir, "real"), filepath.Join(dir, "elsewhere")))
	checkRemoval(t, f, want{outcome: OutcomeRemoved})
	wantNames(t, filepath.Join(dir, "moved"), "s")
	wantNames(t, filepath.Join(dir, "elsewhere"))
}

func TestOpenIn(t *testing.T) {
	outside := testutil.TempDir(t)
	root := filepath.Join(outside, "root")
	run := filepath.Join(root, "run")
	must(t, os.MkdirAll(run, 0o700))
	for _, path := range []string{filepath.Join(run, "s"), filepath.Join(root, "s"), filepath.Join(outside, "s")} {
		leaveDead(t, path)
	}
	for link, to := range map[string]string{"var": "/run", "up": "../../../run", "magic": "/proc/self/cwd", "last": "/run/s"} {
		must(t, os.Symlink(to, filepath.Join(root, link)))
	}
	must(t, os.Mkdir(filepath.Join(root, "proc"), 0o700))
	for _, tt := range []struct {
		path string
		is   string // in root
		want string // Path
		err  error
	}{
		{path: "/run/s", is: "run/s"},
		{path: "run/s", is: "run/s"},
		{path: "//run//s", is: "run/s"},
		{path: "s", is: "s"},
		{path: "/s", is: "s"},
		{path: "/var/s", is: "run/s"},           // an absolute symlink starts at root
		{path: "/up/s", is: "run/s"},            // nothing is above it
		{path: "../../s", is: "s"},              // as for chroot
		{path: "/run/../../run/s", is: "run/s"}, // as for chroot
		{path: "/var/../s", is: "s"},
		{path: "/last", err: ErrNotSocket},
		{path: "/magic/s", err: fs.ErrNotExist},
		{path: "/absent", err: fs.ErrNotExist},
		{path: "/run/..", err: ErrNotSocket},
	} {
		f, err := OpenIn(root, tt.path)
		if !errors.Is(err, tt.err) {
			t.Errorf("OpenIn(%q): %v, want %v", tt.path, err, tt.err)
		}
		if err != nil {
			continue
		}
		direct := openFile(t, filepath.Join(root, tt.is))
		if f.ID() != direct.ID() {
			t.Errorf("OpenIn(%q) is not %s in the root directory", tt.path, tt.is)
		}
		if !strings.HasPrefix(f.Path(), root+"/") || !strings.HasSuffix(f.Path(), strings.TrimLeft(tt.path, "/")) {
			t.Errorf("OpenIn(%q) has the path %q, want it after %q", tt.path, f.Path(), root)
		}
		if f.name() != "s" {
			t.Errorf("OpenIn(%q) has the name %q", tt.path, f.name())
		}
		f.Close()
	}
	f, err := OpenIn("/", filepath.Join(run, "s"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if f.Path() != filepath.Join(run, "s") {
		t.Errorf("path %q", f.Path())
	}
	if _, err := OpenIn(filepath.Join(outside, "absent"), "/s"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("absent root: %v", err)
	}
	if _, err := OpenIn(root, "/proc/self/cwd/s"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%v", err)
	}
	if _, err := OpenIn("/", "/proc/self/cwd/s"); !errors.Is(err, unix.ELOOP) {
		t.Errorf("a magic link: %v, want ELOOP", err)
	}
}

// TestOpenInWhileOthersRename: the kernel gives up a ".." below a root when anything anywhere was renamed meanwhile.
func TestOpenInWhileOthersRename(t *testing.T) {
	dir := testutil.TempDir(t)
	must(t, os.MkdirAll(filepath.Join(dir, "root", "sub"), 0o700))
	leaveDead(t, filepath.Join(dir, "root", "s"))
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		a, b := filepath.Join(dir, "a"), filepath.Join(dir, "b")
		if err := os.Mkdir(a, 0o700); err != nil {
			t.Error(err)
			return
		}
		for {
			select {
			case <-stop:
				return
			default:
			}
			if err := os.Rename(a, b); err != nil {
				t.Error(err)
				return
			}
			a, b = b, a
		}
	}()
	for range 20_000 {
		f, err := OpenIn(filepath.Join(dir, "root"), "/sub/../sub/../sub/../sub/../s")
		if err != nil {
			t.Error(err)
			break
		}
		f.Close()
	}
	close(stop)
	<-stopped
}

func TestFilesShareTheirDirectory(t *testing.T) {
	dir := testutil.TempDir(t)
	a, b := filepath.Join(dir, "a"), filepath.Join(dir, "b")
	leaveDead(t, a)
	leaveDead(t, b)
	fa, err := Open(a)
	if err != nil {
		t.Fatal(err)
	}
	wantDirs(t, 1)
	fb, err := OpenIn(dir, "/../b")
	if err != nil {
		t.Fatal(err)
	}
	wantDirs(t, 1)
	if fa.dir != fb.dir {
		t.Error("two Files in one directory, and two directories")
	}
	for range 2 {
		if err := fa.Close(); err != nil {
			t.Error(err)
		}
	}
	wantDirs(t, 1)
	checkRemoval(t, fb, want{outcome: OutcomeRemoved})
	if err := fb.Close(); err != nil {
		t.Error(err)
	}
	wantDirs(t, 0)
	wantNames(t, dir, "a")
}

func TestOpenAndCloseAtOnce(t *testing.T) {
	dir := testutil.TempDir(t)
	path := filepath.Join(dir, "s")
	bindSocket(t, path, unix.SOCK_STREAM)
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for range 500 {
				f, err := Open(path)
				if err != nil {
					t.Error(err)
					return
				}
				wantState(t, f, StateAlive, ReasonNone)
				f.Close()
			}
		})
	}
	all.Wait()
	wantDirs(t, 0)
}

// TestFileOutlivesItsDirectory has the directory go away under a File.
func TestFileOutlivesItsDirectory(t *testing.T) {
	dir := filepath.Join(testutil.TempDir(t), "dir")
	must(t, os.Mkdir(dir, 0o700))
	path := filepath.Join(dir, "s")
	leaveDead(t, path)
	f := openFile(t, path)
	must(t, os.RemoveAll(dir))
	wantState(t, f, StateUnknown, ReasonNone)
	checkRemoval(t, f, want{outcome: OutcomeGone})
}

// TestOpenKeepsOutOfTheWay: a File must not keep what it is a File of alive, nor be inherited.
func TestOpenKeepsOutOfTheWay(t *testing.T) {
	path := filepath.Join(testutil.TempDir(t), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	f := openFile(t, path)
	flags, err := unix.FcntlInt(uintptr(f.dir.fd), syscall.F_GETFD, 0)
	if err != nil || flags&unix.FD_CLOEXEC == 0 {
		t.Errorf("descriptor flags %#x, %v", flags, err)
	}
	kept := pinInode(t, path)
	if err := l.Close(); err != nil { // unlinks
		t.Fatal(err)
	}
	if kept.links() != 0 {
		t.Error("it still has a name")
	}
	checkRemoval(t, f, want{outcome: OutcomeGone})
}
