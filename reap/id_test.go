package reap

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/sockwatch/sockwatch/internal/testutil"
)

func TestIDText(t *testing.T) {
	path := filepath.Join(testutil.TempDir(t), "s")
	leaveDead(t, path)
	f := openFile(t, path)
	var st unix.Stat_t
	must(t, unix.Lstat(path, &st))
	if f.ID().Dev() != st.Dev || f.ID().Inode() != st.Ino {
		t.Errorf("device %d inode %d, want %d %d", f.ID().Dev(), f.ID().Inode(), st.Dev, st.Ino)
	}
	for _, id := range []ID{f.ID(), {}, {dev: 1, ino: 2}, {dev: 1<<64 - 1, ino: 1<<64 - 1, handle: "\x00\xff:-"}} {
		text, err := json.Marshal(id)
		if err != nil {
			t.Fatal(err)
		}
		var back ID
		if err := json.Unmarshal(text, &back); err != nil || back != id {
			t.Errorf("%s came back as %v, %v", text, back, err)
		}
		if id.Stable() != (id.handle != "") {
			t.Errorf("%v: stable %v", id, id.Stable())
		}
	}
}

func TestIDTextErrors(t *testing.T) {
	for _, text := range []string{"", "1:2", "1:2:", "1:2:-:", "1:2:3:4", "x:2:-", "1:x:-", "-1:2:-", "1:2:zz", "1:2:abc", "1:18446744073709551616:-", " 1:2:-"} {
		id := ID{dev: 7}
		err := id.UnmarshalText([]byte(text))
		if err == nil || !strings.Contains(err.Error(), `"`+text+`"`) {
			t.Errorf("%q: %v does not name it", text, err)
		}
		if id != (ID{dev: 7}) {
			t.Errorf("%q changed the ID to %v", text, id)
		}
	}
}

func FuzzID(f *testing.F) {
	f.Add("65024:12345:01000000deadbeef")
	f.Add("1:2:-")
	f.Fuzz(func(t *testing.T, text string) {
		var id, again ID
		if id.UnmarshalText([]byte(text)) != nil {
			return
		}
		if err := again.UnmarshalText([]byte(id.String())); err != nil || again != id {
			t.Errorf("%q gave %v, which came back as %v, %v", text, id, again, err)
		}
	})
}

// TestIDIsOfTheInode: names come and go.
func TestIDIsOfTheInode(t *testing.T) {
	dir := testutil.TempDir(t)
	a, b, c := filepath.Join(dir, "a"), filepath.Join(dir, "b"), filepath.Join(dir, "c")
	s := bindSocket(t, a, unix.SOCK_STREAM)
	id := openFile(t, a).ID()
	same := func(when, path string) {
		t.Helper()
		if got := openFile(t, path).ID(); got != id {
			t.Errorf("%s: %v, was %v", when, got, id)
		}
	}
	same("opened again", a)
	must(t, os.Link(a, b))
	same("hard link", b)
	must(t, os.Rename(a, c))
	same("renamed", c)
	must(t, os.Chmod(c, 0o600))
	same("changed", c)
	s.die()
	same("dead", c)
	leaveDead(t, a)
	if other := openFile(t, a).ID(); other == id {
		t.Error("another sock-file has the same identity")
	}
}

// TestIDIsNeverReused binds and unlinks until the filesystem gives an inode number out again.
func TestIDIsNeverReused(t *testing.T) {
	for _, fs := range []testutil.Feature{testutil.Ext4, testutil.Tmpfs} {
		t.Run(fs.String(), func(t *testing.T) { neverReused(t, testutil.Dir(t, fs)) })
	}
}

func neverReused(t *testing.T, dir string) {
	t.Helper()
	path := filepath.Join(dir, "s")
	inodes, ids := map[uint64]bool{}, map[ID]bool{}
	reused := 0
	for range 500 {
		leaveDead(t, path)
		f := openFile(t, path)
		if !f.ID().Stable() {
			t.Fatalf("%v: no handle", f.ID())
		}
		if ids[f.ID()] {
			t.Fatalf("%v: a second time", f.ID())
		}
		if inodes[f.ID().Inode()] {
			reused++
		}
		ids[f.ID()], inodes[f.ID().Inode()] = true, true
		must(t, os.Remove(path))
		f.Close()
	}
	t.Logf("%d of 500 inode numbers were given out before", reused)
}

// TestReusedInodeIsReplaced has a new server get the inode number of the claimed file.
func TestReusedInodeIsReplaced(t *testing.T) {
	path := filepath.Join(testutil.TempDir(t), "s")
	for range 200 {
		leaveDead(t, path)
		f := openFile(t, path)
		must(t, os.Remove(path))
		leaveDead(t, path) // dead as well: only its identity saves it
		kept := pinInode(t, path)
		wantState(t, f, StateUnknown, ReasonNone)
		checkRemoval(t, f, want{outcome: OutcomeReplaced})
		if !kept.at(path) {
			t.Fatal("another inode was removed")
		}
		must(t, os.Remove(path))
		f.Close()
	}
}

// TestWithoutHandles is about filesystems, and sandboxes, that have no name_to_handle_at(2).
func TestWithoutHandles(t *testing.T) {
	onThread(t, "ramfs", func(t *testing.T, dir string) {
		unshareMounts(t)
		mount(t, "ramfs", dir, "ramfs", 0, "")
		withoutHandles(t, dir)
	})
	// Sandboxes answer with EPERM, ENOSYS or EACCES.
	for _, errno := range []unix.Errno{unix.EOPNOTSUPP, unix.EPERM, unix.ENOSYS, unix.EACCES} {
		onThread(t, unix.ErrnoName(errno), func(t *testing.T, dir string) {
			end, err := intercept([]uintptr{unix.SYS_NAME_TO_HANDLE_AT}, func(call) unix.Errno { return errno })
			if err != nil {
				t.Fatal(err)
			}
			if errno != unix.EOPNOTSUPP {
				// Where there were handles before, it is an error: the same file would be two.
				handlesAllowed.Store(true)
				leaveDead(t, filepath.Join(dir, "x"))
				if f, err := Open(filepath.Join(dir, "x")); !errors.Is(err, errno) {
					t.Errorf("opened as %v, %v", f, err)
				}
				must(t, os.Remove(filepath.Join(dir, "x")))
				handlesAllowed.Store(false) // as in a program that began in the sandbox
			}
			withoutHandles(t, dir)
			if err := end(); err != nil {
				t.Error(err)
			}
		})
	}
}

func withoutHandles(t *testing.T, dir string) {
	t.Helper()
	path := filepath.Join(dir, "s")
	s := bindSocket(t, path, unix.SOCK_STREAM)
	f := openFile(t, path)
	if f.ID().Stable() || !strings.HasSuffix(f.ID().String(), ":-") {
		t.Fatalf("%v: has a handle", f.ID())
	}
	wantState(t, f, StateAlive, ReasonNone)
	checkRemoval(t, f, want{outcome: OutcomeAlive})
	s.die()
	wantState(t, f, StateDead, ReasonNone)
	checkRemoval(t, f, want{outcome: OutcomeRemoved})
	checkRemoval(t, f, want{outcome: OutcomeGone})

	// The File holds its inode, so no other can look like it.
	for range 50 {
		leaveDead(t, path)
		if same, err := Open(path); err != nil || same.ID() == f.ID() {
			t.Fatalf("another inode is %v, as the one that is held; %v", same, err)
		} else {
			same.Close()
		}
		checkRemoval(t, f, want{outcome: OutcomeReplaced})
		must(t, os.Remove(path))
	}

	// It is found under another name.
	leaveDead(t, path)
	g := openFile(t, path)
	must(t, os.Rename(path, path+"2"))
	checkRemoval(t, g, want{outcome: OutcomeRemoved})
	wantNames(t, dir)
}

// TestOverlay works through the merged view of an overlay.
func TestOverlay(t *testing.T) {
	for _, options := range []string{"", ",nfs_export=on,index=on", ",xino=off"} {
		onThread(t, "options"+options, func(t *testing.T, dir string) {
			unshareMounts(t)
			mount(t, "tmpfs", dir, "tmpfs", 0, "")
			for _, sub := range []string{"lower", "upper", "work", "merged", "lower/d"} {
				must(t, os.Mkdir(filepath.Join(dir, sub), 0o755))
			}
			mount(t, "overlay", filepath.Join(dir, "merged"), "overlay", 0,
				"lowerdir="+dir+"/lower,upperdir="+dir+"/upper,workdir="+dir+"/work"+options)
			for _, sub := range []string{"", "d"} { // made above, copied up from below
				merged(t, filepath.Join(dir, "merged", sub))
			}
		})
	}
}

func merged(t *testing.T, dir string) {
	t.Helper()
	path := filepath.Join(dir, "s")
	ids := map[ID]bool{}
	for range 20 {
		s := bindSocket(t, path, unix.SOCK_STREAM)
		f := openFile(t, path)
		if !f.ID().Stable() {
			t.Logf("%v: pinned", f.ID()) // before AT_HANDLE_FID, Linux 6.5
		} else if ids[f.ID()] {
			t.Errorf("%v: a second time", f.ID())
		}
		ids[f.ID()] = true
		if again := openFile(t, path); again.ID() != f.ID() {
			t.Errorf("%v and %v are one file", again.ID(), f.ID())
		}
		wantState(t, f, StateAlive, ReasonNone)
		checkRemoval(t, f, want{outcome: OutcomeAlive})
		s.die()
		wantState(t, f, StateDead, ReasonNone)
		must(t, os.Rename(path, path+"2"))
		stranger := bindSocket(t, path, unix.SOCK_STREAM)
		checkRemoval(t, f, want{outcome: OutcomeRemoved})
		g := openFile(t, path)
		wantState(t, g, StateAlive, ReasonNone)
		stranger.die()
		checkRemoval(t, g, want{outcome: OutcomeRemoved})
		if left := listDir(t, dir); len(left) > 1 || len(left) == 1 && !strings.HasPrefix(left[0], "d ") {
			t.Errorf("left: %q", left)
		}
		f.Close()
	}
}
