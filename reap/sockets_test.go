package reap

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// boundSocket is a socket that a test bound to a path.
type boundSocket struct {
	fd   int
	path string
}

// bindSocket makes a socket of the given type and its sock-file. The socket ends with the test, if not before.
func bindSocket(t testing.TB, path string, kind int) *boundSocket {
	t.Helper()
	s, err := tryBind(path, kind)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.die)
	return s
}

// tryBind is bindSocket for goroutines other than the test's: the caller ends the socket.
func tryBind(path string, kind int) (*boundSocket, error) {
	fd, err := unix.Socket(unix.AF_UNIX, kind|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	if err := bindAnyPath(fd, path); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("bind %q: %w", path, err)
	}
	return &boundSocket{fd, path}, nil
}

// bindAnyPath is bind(2) for paths of any length and names of any bytes.
func bindAnyPath(fd int, path string) error {
	var sa unix.RawSockaddrUnix
	if len(path) <= len(sa.Path) { // 108 bytes without a NUL at the end are allowed, unix(7)
		sa.Family = unix.AF_UNIX
		for i, b := range []byte(path) {
			sa.Path[i] = int8(b)
		}
		size := unsafe.Offsetof(sa.Path) + uintptr(len(path))
		if len(path) < len(sa.Path) {
			size++
		}
		if _, _, errno := unix.Syscall(unix.SYS_BIND, uintptr(fd), uintptr(unsafe.Pointer(&sa)), size); errno != 0 {
			return errno
		}
		return nil
	}
	dir, err := unix.Open(filepath.Dir(path), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(dir)
	const short = "to-be-renamed"
	if err := bindAnyPath(fd, fmt.Sprintf("/proc/thread-self/fd/%d/%s", dir, short)); err != nil {
		return err
	}
	return unix.Renameat(dir, short, dir, filepath.Base(path))
}

// die closes the socket. Its sock-file stays.
func (s *boundSocket) die() {
	if s.fd >= 0 {
		unix.Close(s.fd)
		s.fd = -1
	}
}

// leaveDead makes a sock-file whose socket is gone.
func leaveDead(t testing.TB, path string) {
	t.Helper()
	bindSocket(t, path, unix.SOCK_STREAM).die()
}

// openFile opens a File that closes with the test.
func openFile(t testing.TB, path string) *File {
	t.Helper()
	f, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

// openSeenAlive makes a dead sock-file that the File saw alive.
func openSeenAlive(t testing.TB, path string) *File {
	t.Helper()
	s := bindSocket(t, path, unix.SOCK_STREAM)
	f := openFile(t, path)
	wantState(t, f, StateAlive, ReasonNone)
	s.die()
	return f
}

func wantState(t testing.TB, f *File, state State, reason Reason) {
	t.Helper()
	if s, r := f.Probe(); s != state || r != reason {
		t.Errorf("%q is %v %q, want %v %q", f.Path(), s, r, state, reason)
	}
}

// want says what a removal is to end in.
type want struct {
	outcome Outcome
	reason  Reason
	err     error // nil: no error
}

func checkResult(t testing.TB, r Result, w want) {
	t.Helper()
	if r.Outcome != w.outcome || r.Reason != w.reason || !errors.Is(r.Err, w.err) {
		t.Errorf("%v %q, %v; want %v %q, %v", r.Outcome, r.Reason, r.Err, w.outcome, w.reason, w.err)
	}
}

// checkRemoval removes the file, first dry. That must change nothing and tell what then comes of it.
func checkRemoval(t testing.TB, f *File, w want) {
	t.Helper()
	checkDryRun(t, f, w)
	r := f.Remove(RemoveOptions{})
	checkResult(t, r, w)
	if r.Path != f.Path() || r.DryRun || r.Took <= 0 {
		t.Errorf("%+v", r)
	}
}

// checkDryRun wants an outcome of a dry run and an untouched directory.
func checkDryRun(t testing.TB, f *File, w want) {
	t.Helper()
	before := listing(t, f)
	r := f.Remove(RemoveOptions{DryRun: true, Commit: func() bool {
		t.Error("a dry run commits to nothing")
		return true
	}})
	if r.Outcome != w.outcome || r.Reason != w.reason || (r.Err == nil) != (w.err == nil) {
		t.Errorf("dry run: %v %q, %v; want %v %q, %v", r.Outcome, r.Reason, r.Err, w.outcome, w.reason, w.err)
	}
	if r.Path != f.Path() || !r.DryRun || r.Took <= 0 {
		t.Errorf("dry run: %+v", r)
	}
	if after := listing(t, f); !slices.Equal(before, after) {
		t.Errorf("a dry run changed %q to %q", before, after)
	}
}

// listing says all that a removal could change in the File's directory.
func listing(t testing.TB, f *File) []string {
	t.Helper()
	return listDir(t, fmt.Sprintf("/proc/self/fd/%d", f.dir.fd))
}

// listDir gives the entries of a directory; nil where it cannot be read.
func listDir(t testing.TB, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil
	}
	var lines []string
	for _, e := range entries {
		var st unix.Stat_t
		if err := unix.Lstat(filepath.Join(dir, e.Name()), &st); err != nil {
			t.Error(err)
			continue
		}
		lines = append(lines, fmt.Sprintf("%s %d %o %d %d %d", e.Name(), st.Ino, st.Mode, st.Nlink, st.Uid, st.Ctim.Nano()))
	}
	return lines
}

// wantNames wants exactly these names in a directory.
func wantNames(t testing.TB, dir string, names ...string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Error(err)
		return
	}
	var got []string
	for _, e := range entries {
		got = append(got, e.Name())
	}
	slices.Sort(got)
	slices.Sort(names)
	if !slices.Equal(got, names) {
		t.Errorf("%s holds %q, want %q", dir, got, names)
	}
}

// privateNames lists the names that removals left in a directory.
func privateNames(t testing.TB, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var left []string
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), privatePrefix) {
			left = append(left, e.Name())
		}
	}
	return left
}

// witness is what a test keeps of an inode to see later whether it still has a name.
type witness struct{ pin int }

// pinInode holds on to the inode at path, not following it, until the test ends.
func pinInode(t testing.TB, path string) witness {
	t.Helper()
	fd, err := unix.Open(path, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatalf("pin %q: %v", path, err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	return witness{fd}
}

// links is the number of names that the inode has.
func (i witness) links() int {
	var st unix.Stat_t
	if err := unix.Fstat(i.pin, &st); err != nil {
		panic(err)
	}
	return int(st.Nlink)
}

// at tells whether path names the inode.
func (i witness) at(path string) bool {
	var mine, its unix.Stat_t
	return unix.Fstat(i.pin, &mine) == nil && unix.Lstat(path, &its) == nil && mine.Dev == its.Dev && mine.Ino == its.Ino
}
