package proc

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/sockwatch/sockwatch/internal/testutil"
)

func TestSockets(t *testing.T) {
	root := t.TempDir()
	dir := filepath.Join(root, "7", "fd")
	must(t, os.MkdirAll(dir, 0o700))
	for fd, link := range map[int]string{
		0: "/dev/null", 1: "pipe:[3]", 2: "socket:[3484]", 10: "anon_inode:[eventpoll]", 1023: "socket:[4294967295]",
		11: "socket:[4294967296]", 12: "/socket:[1]", 13: "socket:[]", 14: "/" + filepath.Join(dir, dir, dir, dir, dir),
	} {
		must(t, os.Symlink(link, filepath.Join(dir, strconv.Itoa(fd))))
	}
	got := collect(t, FS(root).Sockets(7))
	slices.SortFunc(got, func(a, b Socket) int { return a.FD - b.FD })
	if diff := cmp.Diff([]Socket{{2, 3484}, {1023, 1<<32 - 1}}, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestSocketsLive(t *testing.T) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	must(t, err)
	defer unix.Close(fds[0])
	defer unix.Close(fds[1])
	twice, err := unix.FcntlInt(uintptr(fds[0]), unix.F_DUPFD_CLOEXEC, 0)
	must(t, err)
	defer unix.Close(twice)

	got := collect(t, FS("").Sockets(os.Getpid()))
	for _, fd := range []int{fds[0], fds[1], twice} {
		var st unix.Stat_t
		must(t, unix.Fstat(fd, &st))
		if want := (Socket{fd, uint32(st.Ino)}); !slices.Contains(got, want) {
			t.Errorf("%+v is missing in %+v", want, got)
		}
	}
	for _, s := range got {
		var st unix.Stat_t
		must(t, unix.Fstat(s.FD, &st))
		if st.Mode&unix.S_IFMT != unix.S_IFSOCK || uint32(st.Ino) != s.Inode {
			t.Errorf("%+v is of type %#o, inode %d", s, st.Mode&unix.S_IFMT, st.Ino)
		}
	}
}

// TestSocketsClosedMeanwhile closes descriptors that were listed and not read yet.
func TestSocketsClosedMeanwhile(t *testing.T) {
	open := make(map[int]bool)
	for range 100 {
		fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		must(t, err)
		open[fds[0]], open[fds[1]] = true, true
	}
	for s, err := range FS("").Sockets(os.Getpid()) {
		must(t, err)
		if !open[s.FD] {
			continue
		}
		for fd := range open {
			must(t, unix.Close(fd))
		}
		clear(open)
	}
	if len(open) > 0 {
		t.Errorf("none of %v was yielded", open)
	}
}

// TestSocketsReapedMeanwhile reaps a process half way through its descriptors.
func TestSocketsReapedMeanwhile(t *testing.T) {
	child := testutil.Start(t, testutil.Command(t, "sockets", "3000"))
	child.Expect("ready")
	n := 0
	var err error
	for _, err = range FS("").Sockets(child.PID()) {
		if n++; n == 1 {
			child.Kill()
		}
	}
	// Without privilege the kernel denies the look at a process that has begun to end, before it is gone.
	if !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, fs.ErrPermission) {
		t.Errorf("after %d sockets: %v, want fs.ErrNotExist", n, err)
	}
}

func TestSocketsForbidden(t *testing.T) {
	owner := testutil.Start(t, testutil.Command(t, "nondumpable"))
	owner.Expect("ready")
	reader := testutil.Start(t, testutil.Command(t, "forbidden", strconv.Itoa(owner.PID())))
	reader.Expect("permission")
}

// helperSockets opens as many sockets as its argument says.
func helperSockets() {
	n := 0
	if len(os.Args) > 1 {
		n, _ = strconv.Atoi(os.Args[1])
	}
	for range n {
		if _, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM, 0); err != nil {
			panic(err)
		}
	}
	fmt.Println("ready")
	untilHangup()
}

func helperNondumpable() {
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		panic(err)
	}
	fmt.Println("ready")
	untilHangup()
}

// helperForbidden says what reading the sockets of the process in its argument fails with, for a user without
// privilege.
func helperForbidden() {
	pid, err := strconv.Atoi(os.Args[1])
	if err == nil && os.Geteuid() == 0 {
		err = errors.Join(syscall.Setgroups(nil), syscall.Setgid(65534), syscall.Setuid(65534))
	}
	if err != nil {
		panic(err)
	}
	switch err := last(FS("").Sockets(pid)); {
	case errors.Is(err, fs.ErrPermission) && !errors.Is(err, fs.ErrNotExist):
		fmt.Println("permission")
	default:
		fmt.Println(err)
	}
}

func FuzzSocketLink(f *testing.F) {
	for _, s := range []string{"socket:[1]", "socket:[4294967295]", "socket:[4294967296]", "socket:[]", "/socket:[1]", "pipe:[1]"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		n, ok := parseSocketLink(s)
		if again, ok2 := parseSocketLink(fmt.Sprintf("socket:[%d]", n)); !ok2 || again != n {
			t.Errorf("%d became %d, %v", n, again, ok2)
		}
		if !ok && n != 0 {
			t.Errorf("%d of what is no socket", n)
		}
	})
}

func BenchmarkSockets(b *testing.B) {
	for _, n := range []int{10, 1000, 10000} {
		b.Run("sockets="+strconv.Itoa(n), func(b *testing.B) {
			for range n {
				fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
				must(b, err)
				b.Cleanup(func() { unix.Close(fd) })
			}
			b.ReportAllocs()
			for b.Loop() {
				found := 0
				for _, err := range FS("").Sockets(os.Getpid()) {
					must(b, err)
					found++
				}
				if found < n {
					b.Fatalf("%d of %d sockets", found, n)
				}
			}
		})
	}
}
