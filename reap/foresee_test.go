package reap

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/sockwatch/sockwatch/internal/testutil"
)

// The tests here are of what the kernel refuses. checkRemoval sees in all of them that a dry run foretells it.

// bothWays runs a test with a File that never saw its socket alive, where the barrier comes first, and with one that did.
func bothWays(t *testing.T, f func(t *testing.T, open func(testing.TB, string) *File)) {
	t.Helper()
	t.Run("never seen alive", func(t *testing.T) {
		f(t, func(t testing.TB, path string) *File {
			t.Helper()
			leaveDead(t, path)
			return openFile(t, path)
		})
	})
	t.Run("seen alive", func(t *testing.T) { f(t, openSeenAlive) })
}

// onThreadBothWays is bothWays, each on a thread of its own.
func onThreadBothWays(t *testing.T, name string, f func(t *testing.T, dir string, open func(testing.TB, string) *File)) {
	t.Helper()
	bothWays(t, func(t *testing.T, open func(testing.TB, string) *File) {
		onThread(t, name, func(t *testing.T, dir string) { f(t, dir, open) })
	})
}

func TestMountPoint(t *testing.T) {
	onThreadBothWays(t, "on the file", func(t *testing.T, dir string, open func(testing.TB, string) *File) {
		unshareMounts(t)
		path := filepath.Join(dir, "s")
		f := open(t, path)
		mount(t, path, path, "", unix.MS_BIND, "")
		checkRemoval(t, f, want{OutcomeRefused, ReasonMountPoint, unix.EBUSY})
		wantNames(t, dir, "s")
		must(t, unix.Unmount(path, 0))
		checkRemoval(t, f, want{outcome: OutcomeRemoved})
	})
	onThreadBothWays(t, "of another file", func(t *testing.T, dir string, open func(testing.TB, string) *File) {
		unshareMounts(t)
		path, other := filepath.Join(dir, "s"), filepath.Join(dir, "other")
		f := open(t, path)
		leaveDead(t, other)
		mount(t, other, path, "", unix.MS_BIND, "")
		checkRemoval(t, f, want{outcome: OutcomeReplaced})
		wantNames(t, dir, "s", "other")
	})
	// The name is no mount point in ours, so the kernel removes it and ends that mount.
	onThreadBothWays(t, "in another mount namespace", func(t *testing.T, dir string, open func(testing.TB, string) *File) {
		path := filepath.Join(dir, "s")
		f := open(t, path)
		unshareMounts(t)
		mount(t, path, path, "", unix.MS_BIND, "")
		done := make(chan struct{})
		go func() {
			defer close(done)
			checkRemoval(t, f, want{outcome: OutcomeRemoved})
		}()
		<-done
	})
}

func TestReadOnly(t *testing.T) {
	onThreadBothWays(t, "mount", func(t *testing.T, dir string, open func(testing.TB, string) *File) {
		unshareMounts(t)
		path := filepath.Join(dir, "s")
		open(t, path)
		mountReadOnly(t, dir)
		f := openFile(t, path)
		checkRemoval(t, f, want{OutcomeRefused, ReasonReadOnly, unix.EROFS})
		wantNames(t, dir, "s")
	})
	// The File's own descriptor is of the mount that was there.
	onThreadBothWays(t, "mount over an open one", func(t *testing.T, dir string, open func(testing.TB, string) *File) {
		unshareMounts(t)
		f := open(t, filepath.Join(dir, "s"))
		mountReadOnly(t, dir)
		checkRemoval(t, f, want{outcome: OutcomeRemoved})
		wantNames(t, dir)
	})
	onThreadBothWays(t, "filesystem", func(t *testing.T, dir string, open func(testing.TB, string) *File) {
		unshareMounts(t)
		mount(t, "tmpfs", dir, "tmpfs", 0, "")
		f := open(t, filepath.Join(dir, "s"))
		mount(t, "", dir, "", unix.MS_REMOUNT|unix.MS_RDONLY, "")
		checkRemoval(t, f, want{OutcomeRefused, ReasonReadOnly, unix.EROFS})
		wantNames(t, dir, "s")
	})
	// Which of two obstacles the kernel names.
	onThreadBothWays(t, "mount without write permission", func(t *testing.T, dir string, open func(testing.TB, string) *File) {
		unshareMounts(t)
		must(t, os.Chmod(dir, 0o755))
		mount(t, dir, dir, "", unix.MS_BIND, "")
		path := filepath.Join(dir, "s")
		f := open(t, path)
		must(t, os.Chmod(path, 0o777))
		mount(t, "", dir, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, "")
		become(t, nobody)
		checkRemoval(t, f, want{OutcomeRefused, ReasonReadOnly, unix.EROFS})
		wantNames(t, dir, "s")
	})
}

func TestFixedDirectory(t *testing.T) {
	testutil.Require(t, testutil.Root, testutil.Program("chattr"))
	for _, flag := range []string{"i", "a"} {
		t.Run("+"+flag, func(t *testing.T) {
			bothWays(t, func(t *testing.T, open func(testing.TB, string) *File) {
				dir := testutil.Dir(t, testutil.Ext4)
				f := open(t, filepath.Join(dir, "s"))
				run(t, "chattr", "+"+flag, dir)
				defer run(t, "chattr", "-"+flag, dir)
				checkRemoval(t, f, want{OutcomeRefused, ReasonPermission, unix.EPERM})
				wantNames(t, dir, "s")
			})
		})
	}
}

// TestImmutableFile is about a sock-file that cannot be written to: connect(2) says EPERM of it, alive or dead.
func TestImmutableFile(t *testing.T) {
	onThread(t, "ext4", func(t *testing.T, dir string) {
		unshareMounts(t)
		testutil.Require(t, testutil.Program("debugfs"), testutil.Program("umount"))
		mountExt4(t, dir, 1024)
		path := filepath.Join(dir, "s")
		leaveDead(t, path)
		run(t, "umount", dir)
		run(t, "debugfs", "-w", "-R", "set_inode_field /s flags 0x10", dir+".img")
		run(t, "mount", "-o", "loop", dir+".img", dir)
		f := openFile(t, path)
		wantState(t, f, StateUnknown, ReasonPermission)
		checkRemoval(t, f, want{OutcomeRefused, ReasonPermission, unix.EPERM})
		wantNames(t, dir, "lost+found", "s")
	})
}

func TestDirectoryWithoutWritePermission(t *testing.T) {
	bothWays(t, func(t *testing.T, open func(testing.TB, string) *File) {
		dir := testutil.TempDir(t)
		path := filepath.Join(dir, "s")
		f := open(t, path)
		must(t, os.Chmod(path, 0o777))
		must(t, os.Chmod(dir, 0o555))
		defer func() { must(t, os.Chmod(dir, 0o700)) }()
		asNobody(t, func(t *testing.T) {
			checkRemoval(t, f, want{OutcomeRefused, ReasonPermission, unix.EACCES})
			wantNames(t, dir, "s")
		})
	})
}

// TestDirectoryWithoutReadPermission: what cannot be listed can be removed by name.
func TestDirectoryWithoutReadPermission(t *testing.T) {
	bothWays(t, func(t *testing.T, open func(testing.TB, string) *File) {
		dir := testutil.TempDir(t)
		path := filepath.Join(dir, "s")
		f := open(t, path)
		must(t, os.Chmod(path, 0o777))
		must(t, os.Chmod(dir, 0o333))
		defer func() { must(t, os.Chmod(dir, 0o700)) }()
		asNobody(t, func(t *testing.T) {
			checkRemoval(t, f, want{outcome: OutcomeRemoved})
			// Gone as far as one can see. The error tells that it may have another name.
			checkRemoval(t, f, want{outcome: OutcomeGone, err: unix.EACCES})
		})
	})
}

// TestForeignFiles has files of somebody removed by others, from directories of others.
func TestForeignFiles(t *testing.T) {
	testutil.Require(t, testutil.Root)
	capFowner := []int{unix.CAP_FOWNER}
	for _, tt := range []struct {
		what      string
		mode      os.FileMode
		directory int // its owner
		actor     int
		keep      []int // capabilities, of an actor that is root
		want      want
	}{
		{"root", 0o755, somebody, 0, nil, want{outcome: OutcomeRemoved}},
		{"root, sticky", 0o777 | os.ModeSticky, somebody, 0, nil, want{outcome: OutcomeRemoved}},
		{"root without capabilities, sticky", 0o777 | os.ModeSticky, somebody, 0, []int{}, want{OutcomeRefused, ReasonPermission, unix.EPERM}},
		{"root with CAP_FOWNER, sticky", 0o777 | os.ModeSticky, somebody, 0, capFowner, want{outcome: OutcomeRemoved}},
		{"root without capabilities", 0o755, somebody, 0, []int{}, want{OutcomeRefused, ReasonPermission, unix.EACCES}},
		{"another user, sticky", 0o777 | os.ModeSticky, 0, nobody, nil, want{OutcomeRefused, ReasonPermission, unix.EPERM}},
		{"another user", 0o777, 0, nobody, nil, want{outcome: OutcomeRemoved}},
		{"another user, own sticky directory", 0o777 | os.ModeSticky, nobody, nobody, nil, want{outcome: OutcomeRemoved}},
		{"owner, sticky", 0o777 | os.ModeSticky, 0, somebody, nil, want{outcome: OutcomeRemoved}},
		{"owner", 0o755, 0, somebody, nil, want{OutcomeRefused, ReasonPermission, unix.EACCES}},
		{"owner, closed sticky directory", 0o755 | os.ModeSticky, 0, somebody, nil, want{OutcomeRefused, ReasonPermission, unix.EACCES}},
	} {
		onThreadBothWays(t, tt.what, func(t *testing.T, dir string, open func(testing.TB, string) *File) {
			path := filepath.Join(dir, "s")
			f := open(t, path)
			must(t, os.Lchown(path, somebody, somebody))
			must(t, os.Chmod(path, 0o777))
			must(t, os.Chown(dir, tt.directory, tt.directory))
			must(t, os.Chmod(dir, tt.mode))
			switch {
			case tt.actor != 0:
				become(t, tt.actor)
			case tt.keep != nil:
				keepCapabilities(t, tt.keep...)
			}
			checkRemoval(t, f, tt.want)
		})
	}
	onThreadBothWays(t, "sticky directory, mount point", func(t *testing.T, dir string, open func(testing.TB, string) *File) {
		unshareMounts(t)
		path := filepath.Join(dir, "s")
		f := open(t, path)
		for _, p := range []string{path, dir} {
			must(t, os.Chmod(p, 0o777|os.ModeSticky))
		}
		mount(t, path, path, "", unix.MS_BIND, "")
		become(t, nobody)
		checkRemoval(t, f, want{OutcomeRefused, ReasonPermission, unix.EPERM})
	})
}

// TestFullDisk fills a filesystem to the last byte. No dry run can tell of it.
func TestFullDisk(t *testing.T) {
	onThreadBothWays(t, "tmpfs", func(t *testing.T, dir string, open func(testing.TB, string) *File) {
		unshareMounts(t)
		names := []string{"s", "sixteen-bytes-s.", strings.Repeat("n", unix.NAME_MAX)}
		mount(t, "tmpfs", dir, "tmpfs", 0, fmt.Sprintf("size=64k,nr_inodes=%d", 1+len(names)))
		var files []*File
		for _, name := range names {
			files = append(files, open(t, filepath.Join(dir, name)))
		}
		if _, err := tryBind(filepath.Join(dir, "one more"), unix.SOCK_STREAM); err == nil {
			t.Error("there is room")
		}
		for _, f := range files {
			checkRemoval(t, f, want{outcome: OutcomeRemoved})
		}
		wantNames(t, dir)
	})
	// ext4 makes the new entry before it takes the old one away, so there must be a gap in the directory. The one that
	// another name of that length leaves is large enough, from 16 bytes on.
	for _, length := range []int{1, 12, 16, 17, 40, unix.NAME_MAX} {
		name := strings.Repeat("n", length)
		onThreadBothWays(t, fmt.Sprintf("ext4, %d bytes", length), func(t *testing.T, dir string, open func(testing.TB, string) *File) {
			unshareMounts(t)
			mountExt4(t, dir, 1024, "-O", "^has_journal")
			sub := filepath.Join(dir, "d")
			must(t, os.Mkdir(sub, 0o700))
			f := open(t, filepath.Join(sub, name))
			other := filepath.Join(sub, strings.Repeat("o", length))
			leaveDead(t, other)
			fill(t, sub)

			refused := want{OutcomeRefused, ReasonNoSpace, unix.ENOSPC}
			checkDryRun(t, f, want{outcome: OutcomeRemoved})
			before := listing(t, f)
			checkResult(t, f.Remove(RemoveOptions{}), refused)
			if after := listing(t, f); !slices.Equal(before, after) {
				t.Errorf("changed %q to %q", before, after)
			}

			must(t, os.Remove(other))
			if length < privateShortest {
				checkResult(t, f.Remove(RemoveOptions{}), refused)
				return
			}
			checkRemoval(t, f, want{outcome: OutcomeRemoved})
			if left := privateNames(t, sub); left != nil {
				t.Errorf("left: %q", left)
			}
		})
	}
}

// fill leaves no room for a byte on the filesystem nor for another entry in the directory.
func fill(t *testing.T, dir string) {
	t.Helper()
	file, err := os.Create(filepath.Join(dir, "fill"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	for size := 64 << 10; size > 0; size /= 2 {
		for err = nil; err == nil; {
			_, err = file.Write(make([]byte, size))
		}
	}
	for length := 200; length > 0; length-- {
		for i := range 100 {
			name := fmt.Sprintf("%0*d", length, i)
			if err := os.Link(file.Name(), filepath.Join(dir, name[:length])); err != nil && !os.IsExist(err) {
				break
			}
		}
	}
}
