package sys

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/sockwatch/sockwatch/internal/testutil"
)

func list(t *testing.T, dirfd int) []Dirent {
	t.Helper()
	fd, err := OpenList(dirfd)
	must(t, err)
	closeAtEnd(t, fd)
	var entries []Dirent
	must(t, ReadDir(fd, func(e Dirent) bool {
		e.Name = slices.Clone(e.Name)
		entries = append(entries, e)
		return true
	}))
	return entries
}

func TestReadDir(t *testing.T) {
	for _, fs := range []testutil.Feature{testutil.Ext4, testutil.Tmpfs} {
		t.Run(fs.String(), func(t *testing.T) {
			dir := testutil.Dir(t, fs)
			fd, err := OpenDir(unix.AT_FDCWD, dir)
			must(t, err)
			closeAtEnd(t, fd)
			if entries := list(t, fd); len(entries) != 0 {
				t.Errorf("an empty directory has %v", entries)
			}
			want := map[string]uint8{
				"socket": unix.DT_SOCK, "fifo": unix.DT_FIFO, "file": unix.DT_REG, "dir": unix.DT_DIR, "link": unix.DT_LNK,
				"...": unix.DT_REG, " \n\xff": unix.DT_REG, strings.Repeat("n", unix.NAME_MAX): unix.DT_REG,
			}
			in := func(name string) string { return filepath.Join(dir, name) }
			for name, kind := range want {
				switch kind {
				case unix.DT_SOCK:
					must(t, unix.Mknod(in(name), unix.S_IFSOCK|0o600, 0))
				case unix.DT_FIFO:
					must(t, unix.Mkfifo(in(name), 0o600))
				case unix.DT_REG:
					must(t, os.WriteFile(dir+"/"+name, nil, 0o600))
				case unix.DT_DIR:
					must(t, os.Mkdir(in(name), 0o700))
				case unix.DT_LNK:
					must(t, os.Symlink("socket", in(name)))
				}
			}
			entries := list(t, fd)
			if len(entries) != len(want) {
				t.Errorf("%d entries, want %d", len(entries), len(want))
			}
			for _, e := range entries {
				st, err := Lstatat(fd, string(e.Name))
				if err != nil || st.Ino != e.Ino || want[string(e.Name)] != e.Type {
					t.Errorf("%q: inode %d of type %d, want %d of type %d; %v", e.Name, e.Ino, e.Type, st.Ino, want[string(e.Name)], err)
				}
			}
		})
	}
}

// TestReadDirMany reads more than goes into one block, whole and in part.
func TestReadDirMany(t *testing.T) {
	dir, dirfd := openedDir(t)
	const files = 3_000
	for i := range files {
		must(t, os.WriteFile(filepath.Join(dir, fmt.Sprintf("%d-%s", i, strings.Repeat("x", i%200))), nil, 0o600))
	}
	seen := map[string]bool{}
	for _, e := range list(t, dirfd) {
		seen[string(e.Name)] = true
	}
	if len(seen) != files {
		t.Errorf("%d names, want %d", len(seen), files)
	}
	fd, err := OpenList(dirfd)
	must(t, err)
	closeAtEnd(t, fd)
	n := 0
	must(t, ReadDir(fd, func(Dirent) bool { n++; return n < 10 }))
	if n != 10 {
		t.Errorf("%d entries after the tenth was to be the last", n)
	}
}

func TestReadDirErrors(t *testing.T) {
	_, fd := openedDir(t)
	never := func(e Dirent) bool { t.Errorf("entry %q", e.Name); return true }
	if err := ReadDir(fd, never); !errors.Is(err, unix.EBADF) { // opened without the right to read
		t.Errorf("%v, want %v", err, unix.EBADF)
	}
	gone := filepath.Join(testutil.TempDir(t), "gone")
	must(t, os.Mkdir(gone, 0o700))
	dirfd, err := OpenDir(unix.AT_FDCWD, gone)
	must(t, err)
	closeAtEnd(t, dirfd)
	must(t, os.Remove(gone))
	list, err := OpenList(dirfd)
	must(t, err)
	closeAtEnd(t, list)
	if err := ReadDir(list, never); !errors.Is(err, unix.ENOENT) {
		t.Errorf("a removed directory: %v, want %v", err, unix.ENOENT)
	}
}
