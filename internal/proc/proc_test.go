package proc

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/sockwatch/sockwatch/internal/testutil"
)

func collect[T any](t testing.TB, seq func(func(T, error) bool)) []T {
	t.Helper()
	var all []T
	for v, err := range seq {
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, v)
	}
	return all
}

// last returns the error that ended seq, or nil.
func last[T any](seq func(func(T, error) bool)) (err error) {
	for _, err = range seq {
	}
	return err
}

func TestPIDs(t *testing.T) {
	got := collect(t, fixture.PIDs())
	slices.Sort(got) // other filesystems than procfs have an order of their own
	if diff := cmp.Diff([]int{26231, 26232, 26233}, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestPIDsLive(t *testing.T) {
	child := testutil.Start(t, testutil.Command(t, "sockets"))
	child.Expect("ready")
	got := collect(t, FS("").PIDs())
	if !slices.IsSorted(got) {
		t.Error("not in ascending order")
	}
	if !slices.Contains(got, os.Getpid()) || !slices.Contains(got, child.PID()) {
		t.Errorf("%d or %d is missing in %v", os.Getpid(), child.PID(), got)
	}
	for pid, err := range FS("").PIDs() {
		must(t, err)
		if pid == os.Getpid() {
			break // must not leak the directory
		}
	}
}

// TestNoProcess reads of a process that is reaped, and of pids that never are.
func TestNoProcess(t *testing.T) {
	child := testutil.Start(t, testutil.Command(t, "sockets"))
	child.Expect("ready")
	child.Kill()
	for _, pid := range []int{child.PID(), 0, -1, 1 << 30} {
		for name, err := range everyReader("", pid) {
			if pid == 0 && name == "Mounts" {
				continue // of the caller
			}
			if !errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) {
				t.Errorf("%s(%d): %v, want fs.ErrNotExist", name, pid, err)
			}
		}
	}
	for name, err := range everyReader(FS(t.TempDir()), 1) {
		if !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s without procfs: %v, want fs.ErrNotExist", name, err)
		}
	}
	if err := last(FS("testdata/none").PIDs()); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("PIDs without procfs: %v", err)
	}
}

func everyReader(p FS, pid int) map[string]error {
	_, stat := p.Stat(pid)
	_, status := p.Status(pid)
	_, comm := p.Comm(pid)
	_, children := p.Children(pid)
	return map[string]error{
		"Stat": stat, "Status": status, "Comm": comm, "Children": children,
		"Sockets": last(p.Sockets(pid)), "Mounts": last(p.Mounts(pid)),
	}
}

// TestReapedWhileOpen checks what the kernel says of a process that goes between open and read.
func TestReapedWhileOpen(t *testing.T) {
	child := testutil.Start(t, testutil.Command(t, "sockets"))
	child.Expect("ready")
	files := make(map[string]*os.File)
	for _, name := range []string{"stat", "status", "comm"} {
		file, err := os.Open(FS("").pidPath(child.PID(), name))
		must(t, err)
		t.Cleanup(func() { file.Close() })
		files[name] = file
	}
	child.Kill()
	for name, file := range files {
		_, err := io.ReadAll(file)
		if !errors.Is(err, unix.ESRCH) {
			t.Errorf("%s: %v, want ESRCH", name, err)
		}
		if err := checkGone(err); !errors.Is(err, fs.ErrNotExist) || !errors.Is(err, unix.ESRCH) {
			t.Errorf("%s: checkGone made it %v", name, err)
		}
	}
}
