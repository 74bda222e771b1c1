package testutil

import (
	"errors"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

// TempDir returns a new directory under $TMPDIR that goes with the test. Unlike
// that of t.TempDir its path is short: the address of a sock-file has room for
// 108 bytes, unix(7).
func TempDir(t testing.TB) string {
	t.Helper()
	return newDir(t, os.TempDir())
}

// Dir is [TempDir] on the filesystem that fs names, [Ext4] or [Tmpfs]; it
// requires that feature.
func Dir(t testing.TB, fs Feature) string {
	t.Helper()
	Require(t, fs)
	place, err := fs.place()
	if err != nil {
		t.Fatal(err)
	}
	return newDir(t, place)
}

func newDir(t testing.TB, parent string) string {
	t.Helper()
	dir, err := os.MkdirTemp(parent, "sw")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	// What the kernel tells of a path has no symlinks in it.
	dir, err = filepath.EvalSymlinks(dir)
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

func onFilesystem(name string, magic int64) Feature {
	place := sync.OnceValues(func() (string, error) { return findPlace(magic) })
	return Feature{name: name, place: place, check: func() error { _, err := place(); return err }}
}

func findPlace(magic int64) (string, error) {
	for _, dir := range []string{os.TempDir(), "/tmp", "/var/tmp", "/dev/shm", os.Getenv("XDG_RUNTIME_DIR"), "."} {
		var st unix.Statfs_t
		if dir == "" || unix.Statfs(dir, &st) != nil || int64(st.Type) != magic {
			continue
		}
		if unix.Access(dir, unix.W_OK|unix.X_OK) == nil {
			return filepath.Abs(dir)
		}
	}
	return "", errors.New("no writable directory on it among $TMPDIR, /tmp, /var/tmp, /dev/shm, $XDG_RUNTIME_DIR and the package's own")
}
