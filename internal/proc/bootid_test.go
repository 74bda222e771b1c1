package proc

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const fixtureBootID = "5ad5cd3e-0a6b-4c2b-8c2e-9b3f3c1e7a11"

func TestBootID(t *testing.T) {
	if id, err := fixture.BootID(); err != nil || id != fixtureBootID {
		t.Errorf("%q, %v", id, err)
	}

	root := t.TempDir()
	if _, err := FS(root).BootID(); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("without procfs: %v", err)
	}
	file := filepath.Join(root, "sys/kernel/random/boot_id")
	must(t, os.MkdirAll(filepath.Dir(file), 0o700))
	must(t, os.WriteFile(file, []byte("garbage\n"), 0o600))
	if id, err := FS(root).BootID(); err == nil {
		t.Errorf("garbage is %q", id)
	}
	// Neither error was kept; the result is.
	must(t, os.WriteFile(file, []byte(fixtureBootID+"\n"), 0o600))
	for range 2 {
		if id, err := FS(root).BootID(); err != nil || id != fixtureBootID {
			t.Errorf("%q, %v", id, err)
		}
		must(t, os.RemoveAll(file))
	}
}

func TestBootIDLive(t *testing.T) {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	must(t, err)
	if id, err := FS("").BootID(); err != nil || id != strings.TrimSpace(string(b)) {
		t.Errorf("%q, %v; want %q", id, err, b)
	}
}

func FuzzBootID(f *testing.F) {
	f.Add(fixtureBootID + "\n")
	f.Fuzz(func(t *testing.T, s string) {
		if id, err := parseBootID(s); err == nil && strings.TrimSuffix(s, "\n") != id {
			t.Errorf("%q", id)
		}
	})
}
