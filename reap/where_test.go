package reap

import (
	"errors"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/sockwatch/sockwatch/internal/testutil"
)

// TestWhere: by whatever path a file was opened, it is where it is.
func TestWhere(t *testing.T) {
	base := testutil.TempDir(t)
	for _, dir := range []string{"/real", "/other"} {
		if err := os.Mkdir(base+dir, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("real", base+"/link"); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mknod(base+"/real/s", unix.S_IFSOCK|0o600, 0); err != nil {
		t.Fatal(err)
	}
	wantWhere := func(f *File, want string) {
		t.Helper()
		if at, err := f.Where(); at != want || err != nil {
			t.Errorf("%s is at %s, %v; want %s", f.Path(), at, err, want)
		}
	}
	var last *File
	for _, path := range []string{"/real/s", "/link/s", "/other/../link/.//s"} {
		f, err := Open(base + path)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		wantWhere(f, base+"/real/s")
		last = f
	}
	in, err := OpenIn(base, "/link/s")
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	wantWhere(in, base+"/real/s")

	// What has the path later is nothing to it.
	if err := os.Rename(base+"/real", base+"/moved"); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(base+"/other", base+"/real"); err != nil {
		t.Fatal(err)
	}
	wantWhere(last, base+"/moved/s")
}

// TestWhereTooLong: a path that is too long for the kernel to tell is an error.
func TestWhereTooLong(t *testing.T) {
	base := testutil.TempDir(t)
	element := strings.Repeat("a", 250)
	dir, err := os.OpenRoot(base)
	if err != nil {
		t.Fatal(err)
	}
	for range 20 {
		if err := dir.Mkdir(element, 0o700); err != nil {
			t.Fatal(err)
		}
		below, err := dir.OpenRoot(element)
		dir.Close()
		if err != nil {
			t.Fatal(err)
		}
		dir = below
	}
	defer dir.Close()
	at, err := dir.Open(".")
	if err != nil {
		t.Fatal(err)
	}
	defer at.Close()
	if err := unix.Mknodat(int(at.Fd()), "s", unix.S_IFSOCK|0o600, 0); err != nil {
		t.Fatal(err)
	}
	fd, err := unix.Dup(int(at.Fd()))
	if err != nil {
		t.Fatal(err)
	}
	d, err := shareDir(fd)
	if err != nil {
		t.Fatal(err)
	}
	f, err := openIn(d, "s", "s")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if where, err := f.Where(); !errors.Is(err, unix.ENAMETOOLONG) {
		t.Errorf("%d bytes, %v", len(where), err)
	}
}
