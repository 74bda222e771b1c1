package reap

import (
	"errors"
	"io/fs"
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/sockwatch/sockwatch/internal/testutil"
)

func examine(t *testing.T, dir string) Place {
	t.Helper()
	p, err := Examine(dir)
	must(t, err)
	return p
}

func TestExamine(t *testing.T) {
	newLayers()
	onFilesystems(t, func(t *testing.T, dir string) {
		if p := examine(t, dir); p != (Place{Handles: true, NoReplace: true}) {
			t.Errorf("%+v", p)
		}
		wantNames(t, dir)
	})
	if _, err := Examine(testutil.TempDir(t) + "/absent"); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
}

func TestExamineObstacles(t *testing.T) {
	onThread(t, "unwritable", func(t *testing.T, dir string) {
		if os.Geteuid() == 0 {
			must(t, os.Chown(dir, nobody, nobody))
			become(t, nobody)
		}
		layout(t, dir, "unwritable")
		must(t, os.Chmod(dir+"/unwritable", 0o500))
		if p := examine(t, dir+"/unwritable"); !errors.Is(p.Obstacle, fs.ErrPermission) || p.NoReplace || p.TryErr != nil {
			t.Errorf("%+v", p)
		}
	})
	onThread(t, "read-only", func(t *testing.T, dir string) {
		unshareMounts(t)
		mountReadOnly(t, dir)
		if p := examine(t, dir); !errors.Is(p.Obstacle, unix.EROFS) || p.NoReplace || p.TryErr != nil {
			t.Errorf("%+v", p)
		}
	})
}

func TestExamineLayer(t *testing.T) {
	onThread(t, "layer", func(t *testing.T, dir string) {
		unshareMounts(t)
		mount(t, "tmpfs", dir, "tmpfs", 0, "")
		layout(t, dir, "lower", "upper", "work", "merged")
		mount(t, "overlay", dir+"/merged", "overlay", 0, "lowerdir="+dir+"/lower,upperdir="+dir+"/upper,workdir="+dir+"/work")
		defer newLayers()
		newLayers()
		if p := examine(t, dir+"/upper"); p.Blind != ReasonOverlayLayer {
			t.Errorf("%+v", p)
		}
		if p := examine(t, dir+"/merged"); p.Blind != ReasonNone || !p.NoReplace {
			t.Errorf("%+v", p)
		}
	})
}

func TestExamineNoReplaceMissing(t *testing.T) {
	dir := testutil.TempDir(t)
	intercepted(t, func(c call) unix.Errno {
		if c.nr == unix.SYS_RENAMEAT2 && c.args[4] != 0 {
			return unix.EINVAL
		}
		return 0
	}, func() {
		if p := examine(t, dir); p.NoReplace || p.TryErr != nil || p.Obstacle != nil {
			t.Errorf("%+v", p)
		}
	})
	wantNames(t, dir)
}

// TestExamineBesideZombie: the mount table of another user's zombie cannot be read, and that is no reason for doubt.
func TestExamineBesideZombie(t *testing.T) {
	testutil.Require(t, testutil.Root)
	zombie := testutil.Command(t, "exit") // reaped when the test ends
	must(t, zombie.Start())
	must(t, unix.Waitid(unix.P_PID, zombie.Process.Pid, nil, unix.WEXITED|unix.WNOWAIT, nil))
	onThread(t, "as nobody", func(t *testing.T, dir string) {
		become(t, nobody)
		defer newLayers()
		newLayers()
		if p := examine(t, dir); p.Blind != ReasonNone {
			t.Errorf("%+v", p)
		}
	})
}
