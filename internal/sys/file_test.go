package sys

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/sockwatch/sockwatch/internal/testutil"
)

// must is for what a test prepares.
func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func closeAtEnd(t testing.TB, fd int) {
	t.Helper()
	t.Cleanup(func() {
		if err := Close(fd); err != nil {
			t.Error(err)
		}
	})
}

// openedDir is a directory of the test's, opened as a place to work in.
func openedDir(t testing.TB) (path string, fd int) {
	t.Helper()
	path = testutil.TempDir(t)
	fd, err := OpenDir(unix.AT_FDCWD, path)
	must(t, err)
	closeAtEnd(t, fd)
	return path, fd
}

func TestStat(t *testing.T) {
	dir, fd := openedDir(t)
	must(t, unix.Mknod(filepath.Join(dir, "socket"), unix.S_IFSOCK|0o640, 0))
	must(t, os.WriteFile(filepath.Join(dir, "file"), nil, 0o600))
	must(t, os.Symlink("socket", filepath.Join(dir, "link")))
	must(t, os.Link(filepath.Join(dir, "socket"), filepath.Join(dir, "twin")))
	for name, socket := range map[string]bool{"socket": true, "twin": true, "file": false, "link": false, ".": false} {
		byName, err := Lstatat(fd, name)
		must(t, err)
		pin, err := OpenPin(fd, name)
		must(t, err)
		byPin, err := Fstat(pin)
		must(t, err)
		if byName.IsSocket() != socket || byPin != byName || !byPin.SameInode(byName) {
			t.Errorf("%s: by name %+v, by descriptor %+v", name, byName, byPin)
		}
		var want unix.Stat_t
		must(t, unix.Lstat(filepath.Join(dir, name), &want))
		if byName.Dev != uint64(want.Dev) || byName.Ino != want.Ino || byName.Mode != want.Mode || //nolint:unconvert // the type differs by architecture
			byName.Nlink != uint64(want.Nlink) || byName.UID != want.Uid || byName.Mtime != want.Mtim || byName.Ctime != want.Ctim { //nolint:unconvert // the same
			t.Errorf("%s: %+v, want %+v", name, byName, want)
		}
		must(t, Close(pin))
	}
	socket, _ := Lstatat(fd, "socket")
	twin, _ := Lstatat(fd, "twin")
	file, _ := Lstatat(fd, "file")
	if !socket.SameInode(twin) || socket.SameInode(file) || socket.Nlink != 2 {
		t.Errorf("%+v, %+v, %+v", socket, twin, file)
	}
}

// TestErrors: each names its call and holds the errno.
func TestErrors(t *testing.T) {
	dir, fd := openedDir(t)
	must(t, os.WriteFile(filepath.Join(dir, "file"), nil, 0o600))
	file, err := OpenPin(fd, "file")
	must(t, err)
	closeAtEnd(t, file)
	const closed = -1
	second := func(_ any, err error) error { return err }
	for _, tt := range []struct {
		call  string
		errno unix.Errno
		err   error
	}{
		{"fstat", unix.EBADF, second(Fstat(closed))},
		{"fstatat", unix.ENOENT, second(Lstatat(fd, "absent"))},
		{"openat", unix.ENOENT, second(OpenPin(fd, "absent"))},
		{"openat", unix.ENOTDIR, second(OpenDir(fd, "file"))},
		{"openat2", unix.ENOTDIR, second(OpenDirIn(fd, "file"))},
		{"openat", unix.ENOTDIR, second(OpenList(file))},
		{"close", unix.EBADF, Close(closed)},
		{"statx", unix.EBADF, second(StatDir(closed))},
		{"statx", unix.EBADF, second(FileAttributes(closed))},
		{"faccessat2", unix.EBADF, Writable(closed)},
		{"fstatfs", unix.EBADF, second(FilesystemType(closed))},
		{"fstatfs", unix.EBADF, second(ReadOnly(closed))},
		{"renameat2", unix.ENOENT, RenameNoReplace(fd, "absent", "other")},
		{"renameat2", unix.EEXIST, RenameNoReplace(fd, "file", "file")},
		{"renameat", unix.ENOENT, Rename(fd, "absent", "other")},
		{"linkat", unix.EEXIST, Link(fd, "file", "file")},
		{"unlinkat", unix.ENOENT, Unlink(fd, "absent")},
		{"unlinkat", unix.EISDIR, Unlink(fd, ".")},
		{"readlinkat", unix.EINVAL, second(Readlinkat(fd, "file"))},
		{"name_to_handle_at", unix.EBADF, second(FileHandle(closed, 0))},
	} {
		var syscallErr *os.SyscallError
		if !errors.As(tt.err, &syscallErr) || syscallErr.Syscall != tt.call || !errors.Is(tt.err, tt.errno) {
			t.Errorf("%s: %v, want %v", tt.call, tt.err, tt.errno)
		}
	}
}

// TestOpenWithoutTouching: a pin opens nothing of what is behind the name.
func TestOpenWithoutTouching(t *testing.T) {
	dir, fd := openedDir(t)
	must(t, unix.Mkfifo(filepath.Join(dir, "fifo"), 0)) // nobody else is at its other end, and nobody may open it
	must(t, os.Symlink("absent", filepath.Join(dir, "link")))
	for _, name := range []string{"fifo", "link"} {
		pin, err := OpenPin(fd, name)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if flags, err := unix.FcntlInt(uintptr(pin), unix.F_GETFD, 0); err != nil || flags&unix.FD_CLOEXEC == 0 {
			t.Errorf("%s: flags %#x, %v", name, flags, err)
		}
		must(t, Close(pin))
	}
}

func TestOpenDirIn(t *testing.T) {
	dir, _ := openedDir(t)
	root := filepath.Join(dir, "root")
	must(t, os.MkdirAll(filepath.Join(root, "sub"), 0o700))
	must(t, os.Symlink("/sub", filepath.Join(root, "absolute")))
	must(t, os.Symlink("../../../sub", filepath.Join(root, "upwards")))
	rootfd, err := OpenDir(unix.AT_FDCWD, root)
	must(t, err)
	closeAtEnd(t, rootfd)
	var want unix.Stat_t
	must(t, unix.Stat(filepath.Join(root, "sub"), &want))
	for _, path := range []string{"sub", "/sub", "/sub/", "absolute", "upwards", "sub/../sub", "../../sub"} {
		fd, err := OpenDirIn(rootfd, path)
		must(t, err)
		if st, err := Fstat(fd); err != nil || st.Ino != want.Ino {
			t.Errorf("%s is inode %d, want %d; %v", path, st.Ino, want.Ino, err)
		}
		must(t, Close(fd))
	}
	if _, err := OpenDirIn(rootfd, "../root/sub"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%v, want %v", err, fs.ErrNotExist)
	}
	slash, err := OpenDir(unix.AT_FDCWD, "/")
	must(t, err)
	closeAtEnd(t, slash)
	if _, err := OpenDirIn(slash, "/proc/self/root"); !errors.Is(err, unix.ELOOP) {
		t.Errorf("a magic link: %v, want %v", err, unix.ELOOP)
	}
}

func TestStatDir(t *testing.T) {
	dir, fd := openedDir(t)
	again, err := OpenDir(fd, ".")
	must(t, err)
	closeAtEnd(t, again)
	a, err := StatDir(fd)
	must(t, err)
	b, err := StatDir(again)
	must(t, err)
	var st unix.Stat_t
	must(t, unix.Stat(dir, &st))
	if a != b || a.Ino != st.Ino || unix.Mkdev(a.Major, a.Minor) != uint64(st.Dev) || a.Mount == 0 { //nolint:unconvert // the type differs by architecture
		t.Errorf("%+v, %+v, want inode %d on device %d", a, b, st.Ino, st.Dev)
	}
	proc, err := OpenDir(unix.AT_FDCWD, "/proc")
	must(t, err)
	closeAtEnd(t, proc)
	if c, err := StatDir(proc); err != nil || c.Mount == a.Mount {
		t.Errorf("/proc is of the mount %d, as %s is; %v", c.Mount, dir, err)
	}
}

func TestRename(t *testing.T) {
	dir, fd := openedDir(t)
	write := func(name string) { t.Helper(); must(t, os.WriteFile(filepath.Join(dir, name), []byte(name), 0o600)) }
	wantText := func(name, text string) {
		t.Helper()
		if b, err := os.ReadFile(filepath.Join(dir, name)); err != nil || string(b) != text {
			t.Errorf("%s holds %q, %v; want %q", name, b, err, text)
		}
	}
	write("a")
	write("b")
	if err := RenameNoReplace(fd, "a", "b"); !errors.Is(err, fs.ErrExist) {
		t.Errorf("%v, want %v", err, fs.ErrExist)
	}
	wantText("a", "a")
	wantText("b", "b")
	must(t, RenameNoReplace(fd, "a", "c"))
	wantText("c", "a")
	must(t, Rename(fd, "c", "b"))
	wantText("b", "a")
	must(t, os.Symlink("b", filepath.Join(dir, "link")))
	must(t, Link(fd, "link", "link2"))
	if to, err := Readlinkat(fd, "link2"); to != "b" || err != nil {
		t.Errorf("the link of a symlink leads to %q, %v", to, err)
	}
	must(t, Unlink(fd, "link"))
	wantText("b", "a")
}

func TestFileHandle(t *testing.T) {
	for _, fs := range []testutil.Feature{testutil.Ext4, testutil.Tmpfs} {
		t.Run(fs.String(), func(t *testing.T) {
			dir := testutil.Dir(t, fs)
			path := filepath.Join(dir, "s")
			handles := map[string]bool{}
			for range 100 {
				must(t, unix.Mknod(path, unix.S_IFSOCK|0o600, 0))
				pin, err := OpenPin(unix.AT_FDCWD, path)
				must(t, err)
				handle, err := FileHandle(pin, 0)
				must(t, err)
				if handles[handle] {
					t.Errorf("%x: a second time", handle)
				}
				handles[handle] = true
				if again, err := FileHandle(pin, 0); again != handle || err != nil {
					t.Errorf("%x, then %x, %v", handle, again, err)
				}
				must(t, Close(pin))
				must(t, os.Remove(path))
			}
		})
	}
	proc, err := OpenDir(unix.AT_FDCWD, "/proc")
	must(t, err)
	closeAtEnd(t, proc)
	if handle, err := FileHandle(proc, 0); !errors.Is(err, unix.EOPNOTSUPP) {
		t.Errorf("procfs: %x, %v; want %v", handle, err, unix.EOPNOTSUPP)
	}
}

func TestFilesystem(t *testing.T) {
	proc, err := OpenDir(unix.AT_FDCWD, "/proc")
	must(t, err)
	closeAtEnd(t, proc)
	if kind, err := FilesystemType(proc); kind != unix.PROC_SUPER_MAGIC || err != nil {
		t.Errorf("/proc is of type %#x, %v", kind, err)
	}
	_, fd := openedDir(t)
	if readOnly, err := ReadOnly(fd); readOnly || err != nil {
		t.Errorf("read-only %v, %v", readOnly, err)
	}
	if err := Writable(fd); err != nil {
		t.Error(err)
	}
	if a, err := FileAttributes(fd); a.MountRoot || a.Fixed || err != nil {
		t.Errorf("%+v, %v", a, err)
	}
	if a, err := FileAttributes(proc); !a.MountRoot || err != nil {
		t.Errorf("/proc: %+v, %v", a, err)
	}
}

func TestCredentials(t *testing.T) {
	if uid, err := FSUID(); uid != uint32(os.Geteuid()) || err != nil {
		t.Errorf("uid %d, %v", uid, err)
	}
	if os.Geteuid() != 0 {
		if has, err := HasCapability(unix.CAP_FOWNER); has || err != nil {
			t.Errorf("without privileges: CAP_FOWNER %v, %v", has, err)
		}
		return
	}
	t.Run("thread's own", func(t *testing.T) {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
		// One of each half of the set.
		only := [2]unix.CapUserData{{Effective: 1 << unix.CAP_FOWNER, Permitted: 1 << unix.CAP_FOWNER}}
		for _, tt := range []struct {
			has  int
			sets [2]unix.CapUserData
		}{{unix.CAP_FOWNER, only}, {-1, [2]unix.CapUserData{}}} {
			must(t, unix.Capset(&header, &tt.sets[0]))
			for c := range unix.CAP_LAST_CAP + 1 {
				if has, err := HasCapability(c); has != (c == tt.has) || err != nil {
					t.Errorf("capability %d: %v, %v", c, has, err)
				}
			}
		}
	})
}

func TestLongNames(t *testing.T) {
	dir, fd := openedDir(t)
	name := strings.Repeat("n", unix.NAME_MAX)
	must(t, os.Symlink(strings.Repeat("t", unix.PathMax-1), filepath.Join(dir, name)))
	if to, err := Readlinkat(fd, name); len(to) != unix.PathMax-1 || err != nil {
		t.Errorf("%d bytes, %v", len(to), err)
	}
}
