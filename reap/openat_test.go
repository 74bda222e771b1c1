package reap

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sockwatch/sockwatch/internal/testutil"
)

// openRoot opens a directory to be a root directory for paths.
func openRoot(t testing.TB, path string) int {
	t.Helper()
	fd, err := unix.Open(path, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	must(t, err)
	t.Cleanup(func() { unix.Close(fd) })
	return fd
}

// mkdir makes a directory of exactly this mode, whatever the umask.
func mkdir(t testing.TB, mode fs.FileMode, path string) {
	t.Helper()
	must(t, os.Mkdir(path, 0o700))
	must(t, os.Chmod(path, mode))
}

// TestOpenAs is of paths. It needs no other user.
func TestOpenAs(t *testing.T) {
	dir := testutil.TempDir(t)
	root := filepath.Join(dir, "root")
	for _, d := range []string{root, filepath.Join(root, "run"), filepath.Join(root, "var")} {
		mkdir(t, 0o700, d)
	}
	leaveDead(t, filepath.Join(dir, "outside"))
	leaveDead(t, filepath.Join(root, "run", "s"))
	for link, to := range map[string]string{
		"var/run": "/run", "var/up": "../../../../run", "var/out": "..", "run/link": "s", "var/loop": "loop",
	} {
		must(t, os.Symlink(to, filepath.Join(root, link)))
	}
	inside := openRoot(t, root)
	own := openRoot(t, "/")
	for _, as := range []func(f func()) error{nil, directly, asThread(t)} {
		for _, path := range []string{"/run/s", "//run//s", "/run/../run/./s", "/../../run/s", "/var/run/s", "/var/up/s"} {
			f, err := OpenAs(as, inside, path)
			if err != nil {
				t.Error(err)
				continue
			}
			if f.Path() != path {
				t.Errorf("%q has the path %q", path, f.Path())
			}
			wantState(t, f, StateDead, ReasonNone)
			must(t, f.Close())
		}
		for _, tt := range []struct {
			path string
			err  error
		}{
			{"/run/absent", fs.ErrNotExist},
			{"/absent/s", fs.ErrNotExist},
			{"/outside", fs.ErrNotExist},
			{"/../outside", fs.ErrNotExist},
			{"/var/out/outside", fs.ErrNotExist},
			{"/run/link", ErrNotSocket},
			{"/run", ErrNotSocket},
			{"/run/", ErrNotSocket},
			{"/", ErrNotSocket},
			{"/run/s/s", unix.ENOTDIR},
			{"/var/loop/s", unix.ELOOP},
			{"run/s", fs.ErrInvalid},
			{"", fs.ErrNotExist},
			{"/run/s\x00", nil},
			{"/" + strings.Repeat("x", unix.NAME_MAX+1), unix.ENAMETOOLONG},
		} {
			f, err := OpenAs(as, inside, tt.path)
			var pathErr *fs.PathError
			if f != nil || (tt.err != nil && !errors.Is(err, tt.err)) || !errors.As(err, &pathErr) || pathErr.Path != tt.path {
				t.Errorf("%.60q: %v, want %v with the path", tt.path, err, tt.err)
			}
		}
		// Those are for others a way around the permissions.
		for _, magic := range []string{"/proc/self/root", fmt.Sprintf("/proc/self/fd/%d/run", inside)} {
			if _, err := OpenAs(as, own, magic+"/s"); !errors.Is(err, unix.ELOOP) {
				t.Errorf("%s: %v, want %v", magic, err, unix.ELOOP)
			}
		}
		f, err := OpenAs(as, own, filepath.Join(root, "run", "s"))
		must(t, err)
		must(t, f.Close())
	}
	for _, cause := range []error{nil, unix.ENOENT, errors.New("no such user")} {
		_, err := OpenAs(asNever(cause), inside, "/run/s")
		if !errors.Is(err, fs.ErrPermission) || errors.Is(err, fs.ErrNotExist) {
			t.Errorf("denied with %v: %v", cause, err)
		}
		checkResult(t, Unopened("/run/s", err), want{OutcomeRefused, ReasonPermission, unix.EPERM})
	}
	wantDirs(t, 0)
}

// TestOpenAsUser: root opens for a user what that user can reach.
func TestOpenAsUser(t *testing.T) {
	testutil.Require(t, testutil.Root)
	dir := testutil.TempDir(t)
	in := func(name string) string { return filepath.Join(dir, name) }
	must(t, os.Chmod(dir, 0o755))
	mkdir(t, 0o700, in("closed"))
	mkdir(t, 0o755, in("closed/open"))
	mkdir(t, 0o755, in("open"))
	mkdir(t, 0o711, in("searchable"))
	mkdir(t, 0o744, in("readable"))
	mkdir(t, 0o750, in("group"))
	must(t, os.Chown(in("group"), 0, 77))
	for _, d := range []string{"closed", "closed/open", "open", "searchable", "readable", "group"} {
		leaveDead(t, in(d+"/s"))
	}
	must(t, os.Symlink("closed/open", in("link")))
	must(t, os.Symlink("open", in("good-link")))

	root := openRoot(t, "/")
	as, asGroup := asUser(t), asUser(t, 77)
	// Whether there is anything in a closed directory is not told either.
	for _, path := range []string{"closed/s", "closed/absent", "closed/open/s", "readable/s", "readable/absent", "group/s", "link/s", "link/absent"} {
		f, err := OpenAs(as, root, in(path))
		if f != nil || !errors.Is(err, unix.EACCES) {
			t.Errorf("%s: %v, want %v", path, err, unix.EACCES)
		}
		checkResult(t, Unopened(path, err), want{OutcomeRefused, ReasonPermission, unix.EACCES})
	}
	for path, as := range map[string]func(f func()) error{
		"open/s": as, "searchable/s": as, "good-link/s": as, "group/../open/s": asGroup, "group/s": asGroup,
	} {
		f, err := OpenAs(as, root, in(path))
		if err != nil {
			t.Errorf("%s: %v", path, err)
			continue
		}
		if f.UID() != 0 {
			t.Errorf("%s is user %d's", path, f.UID())
		}
		checkRemovalAs(t, f, as, want{OutcomeRefused, ReasonPermission, unix.EACCES})
		must(t, f.Close())
	}
}

// TestOpenAsRace has a user swap his directory for a symlink to one that is not his, in which a dead file has the same name, for two
// seconds or until there was every outcome: it is never removed, and his own is.
func TestOpenAsRace(t *testing.T) {
	as := asUser(t)
	dir := testutil.TempDir(t)
	in := func(name string) string { return filepath.Join(dir, name) }
	must(t, os.Chmod(dir, 0o777))
	for _, d := range []string{"own", "open", "closed"} {
		mkdir(t, 0o755, in(d))
	}
	must(t, os.Chmod(in("closed"), 0o700))
	must(t, os.Chown(in("own"), nobody, nobody))
	kept := map[string]witness{}
	for _, d := range []string{"open", "closed"} {
		leaveDead(t, in(d+"/s"))
		kept[in(d+"/s")] = pinInode(t, in(d+"/s"))
		must(t, os.Symlink(d, in("to-"+d)))
	}

	var stop atomic.Bool
	var all sync.WaitGroup
	all.Go(func() {
		for i := 0; !stop.Load(); i++ {
			link := in([]string{"to-open", "to-closed"}[i%2])
			for range 2 { // there and back
				if err := unix.Renameat2(unix.AT_FDCWD, in("own"), unix.AT_FDCWD, link, unix.RENAME_EXCHANGE); err != nil {
					t.Error(err)
					return
				}
			}
		}
	})
	root := openRoot(t, "/")
	outcomes := map[string]int{}
	run := func() bool { return outcomes["removed"] > 0 && outcomes["refused"] > 0 }
	for begun := time.Now(); time.Since(begun) < 2*time.Second || !run() && time.Since(begun) < time.Minute; {
		f, err := OpenAs(as, root, in("own/s"))
		if err != nil {
			outcomes["open: "+Unopened("", err).Outcome.String()]++
		} else {
			r := f.Remove(RemoveOptions{As: as})
			outcomes[r.Outcome.String()]++
			must(t, f.Close())
		}
		// The next one, by a path that leads to his directory or nowhere.
		fd, err := unix.Openat2(unix.AT_FDCWD, in("own"), &unix.OpenHow{Flags: unix.O_PATH | unix.O_DIRECTORY | unix.O_CLOEXEC, Resolve: unix.RESOLVE_NO_SYMLINKS})
		if err == nil {
			if unix.Mknodat(fd, "s", unix.S_IFSOCK|0o600, 0) == nil {
				outcomes["made"]++
			}
			unix.Close(fd)
		}
	}
	stop.Store(true)
	all.Wait()
	t.Logf("%v", outcomes)
	for path, w := range kept {
		if !w.at(path) {
			t.Errorf("%s is gone", path)
		}
	}
	for _, d := range []string{"own", "open", "closed"} {
		if left := privateNames(t, in(d)); left != nil {
			t.Errorf("%s: left %q", d, left)
		}
	}
	if !run() {
		t.Errorf("the race was not run: %v", outcomes)
	}
}
