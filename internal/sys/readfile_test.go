package sys

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

func TestReadFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	for _, size := range []int{0, 1, 1023, 1024, 1025, 100000} {
		want := bytes.Repeat([]byte("0123456789"), size/10+1)[:size]
		if err := os.WriteFile(path, want, 0o600); err != nil {
			t.Fatal(err)
		}
		if got, err := ReadFile(path); err != nil || !bytes.Equal(got, want) {
			t.Errorf("of %d bytes: %d, %v", size, len(got), err)
		}
	}
	// It is longer than a page, and made as it is read.
	want, err := os.ReadFile("/proc/self/smaps")
	if err != nil {
		t.Fatal(err)
	}
	if got, err := ReadFile("/proc/self/smaps"); err != nil || len(got) < len(want)/2 {
		t.Errorf("%d bytes of about %d, %v", len(got), len(want), err)
	}
	for path, want := range map[string]error{path + "/x": unix.ENOTDIR, path + "x": fs.ErrNotExist, "/proc": unix.EISDIR} {
		var at *fs.PathError
		if _, err := ReadFile(path); !errors.Is(err, want) || !errors.As(err, &at) || at.Path != path {
			t.Errorf("%s: %v", path, err)
		}
	}
}
