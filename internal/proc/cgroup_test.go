package proc

import (
	"os"
	"strings"
	"syscall"
	"testing"

	"github.com/sockwatch/sockwatch/internal/testutil"
)

func TestCgroup(t *testing.T) {
	b, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		t.Fatal(err)
	}
	path, err := FS("").Cgroup(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	if want := "0::" + path + "\n"; path != "" && !strings.Contains(string(b), want) || path == "" && strings.Contains(string(b), "0::") {
		t.Errorf("it is %q of %q", path, b)
	}
}

// A tree of directories stands for cgroup2, whose ids are inode numbers of directories as well.
func TestCgroups(t *testing.T) {
	root := testutil.TempDir(t)
	if err := os.MkdirAll(root+"/a.slice/b.service", 0o700); err != nil {
		t.Fatal(err)
	}
	c := Cgroups{Root: root}
	for _, path := range []string{"/", "/a.slice", "/a.slice/b.service"} {
		if got := c.Path(inodeOf(t, root+path)); got != path {
			t.Errorf("%s is %q", path, got)
		}
	}
	if got := c.Path(1); got != "" {
		t.Errorf("one that is not there is %q", got)
	}
	if err := os.Mkdir(root+"/new", 0o700); err != nil {
		t.Fatal(err)
	}
	if got := c.Path(inodeOf(t, root+"/new")); got != "/new" {
		t.Errorf("one that was made since is %q", got)
	}
}

func inodeOf(t *testing.T, path string) uint64 {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	return info.Sys().(*syscall.Stat_t).Ino
}
