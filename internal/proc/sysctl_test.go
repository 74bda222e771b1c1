package proc

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
)

func TestSysctl(t *testing.T) {
	root := t.TempDir()
	if err := os.MkdirAll(filepath.Join(root, "sys/fs"), 0o700); err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string]string{"number": "8192\n", "words": "8192 3\n", "empty": ""} {
		if err := os.WriteFile(filepath.Join(root, "sys/fs", name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if n, err := FS(root).Sysctl("fs/number"); n != 8192 || err != nil {
		t.Errorf("%d, %v", n, err)
	}
	for _, name := range []string{"fs/words", "fs/empty"} {
		if n, err := FS(root).Sysctl(name); err == nil {
			t.Errorf("%s: %d", name, n)
		}
	}
	if _, err := FS(root).Sysctl("fs/absent"); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
	if n, err := FS("").Sysctl("kernel/pid_max"); n <= 0 || err != nil {
		t.Errorf("of this kernel: %d, %v", n, err)
	}
}
