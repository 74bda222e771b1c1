package reap

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/sockwatch/sockwatch/internal/testutil"
)

// wantFiles wants a listing to give these paths, each once: "" for a File, else the errno it stands for.
func wantFiles(t *testing.T, dir string, recursive bool, want map[string]error) {
	t.Helper()
	got := map[string]error{}
	for f, err := range list(dir, recursive) {
		var path string
		var errno unix.Errno
		if err != nil {
			var pathError *fs.PathError
			if !errors.As(err, &pathError) || !errors.As(err, &errno) {
				t.Errorf("%v", err)
				continue
			}
			path = pathError.Path
		} else {
			path = f.Path()
			f.Close()
		}
		if _, again := got[path]; again {
			t.Errorf("%s is told twice", path)
		}
		got[path] = nil
		if err != nil {
			got[path] = errno
		}
	}
	if !maps.Equal(got, want) {
		t.Errorf("recursive %v:\n got %q\nwant %q", recursive, got, want)
	}
}

func TestListAndWalk(t *testing.T) {
	dir := testutil.TempDir(t)
	layout(t, dir, "a/b", "empty")
	for _, name := range []string{"0", "a/1", "a/b/2", "a/" + privatePrefix + "x"} {
		leaveDead(t, filepath.Join(dir, name))
	}
	bindSocket(t, dir+"/live", unix.SOCK_DGRAM)
	must(t, os.WriteFile(dir+"/a/regular", nil, 0o600))
	must(t, os.Symlink("..", dir+"/a/up"))
	must(t, os.Symlink("1", dir+"/a/link"))

	own := map[string]error{dir + "/0": nil, dir + "/live": nil}
	wantFiles(t, dir, false, own)
	wantFiles(t, dir+"/", false, own)
	wantFiles(t, dir, true, map[string]error{dir + "/0": nil, dir + "/live": nil, dir + "/a/1": nil, dir + "/a/b/2": nil})
	wantFiles(t, dir+"/a/up", true, map[string]error{
		dir + "/a/up/0": nil, dir + "/a/up/live": nil, dir + "/a/up/a/1": nil, dir + "/a/up/a/b/2": nil,
	})
	wantFiles(t, dir+"/absent", true, map[string]error{dir + "/absent": unix.ENOENT})
	wantFiles(t, dir+"/live", true, map[string]error{dir + "/live": unix.ENOTDIR})
}

// TestWalkStops leaves a walk at each of its files: no descriptor is left, or TestMain says so.
func TestWalkStops(t *testing.T) {
	dir := testutil.TempDir(t)
	layout(t, dir, "a/b", "c")
	for _, name := range []string{"0", "a/1", "a/b/2", "c/3"} {
		leaveDead(t, filepath.Join(dir, name))
	}
	for stop := 1; stop <= 4; stop++ {
		n := 0
		for f, err := range Walk(dir) {
			must(t, err)
			f.Close()
			if n++; n == stop {
				break
			}
		}
		if n != stop {
			t.Errorf("%d files, want %d", n, stop)
		}
	}
}

func TestWalkUnreadable(t *testing.T) {
	onThread(t, "unreadable", func(t *testing.T, dir string) {
		if os.Geteuid() == 0 {
			must(t, os.Chown(dir, nobody, nobody))
			become(t, nobody)
		}
		layout(t, dir, "a", "secret", "unsearchable/below", "z")
		for _, name := range []string{"a/1", "secret/2", "unsearchable/3", "z/4"} {
			leaveDead(t, filepath.Join(dir, name))
		}
		for name, mode := range map[string]os.FileMode{"secret": 0, "unsearchable": 0o600} {
			must(t, os.Chmod(filepath.Join(dir, name), mode))
			defer func() { _ = os.Chmod(filepath.Join(dir, name), 0o700) }()
		}
		wantFiles(t, dir, true, map[string]error{
			dir + "/a/1":          nil,
			dir + "/secret":       unix.EACCES,
			dir + "/unsearchable": unix.EACCES,
			dir + "/z/4":          nil,
		})
	})
}

func TestSocketTypes(t *testing.T) {
	dir := testutil.TempDir(t)
	var files []*File
	kinds := []int{unix.SOCK_STREAM, unix.SOCK_DGRAM, unix.SOCK_SEQPACKET, 0}
	for i, kind := range kinds {
		path := fmt.Sprintf("%s/%d", dir, i)
		if kind == 0 {
			leaveDead(t, path)
		} else {
			bindSocket(t, path, kind)
		}
		files = append(files, openFile(t, path))
	}
	got, err := SocketTypes(files)
	must(t, err)
	if fmt.Sprint(got) != fmt.Sprint(kinds) {
		t.Errorf("%v, want %v", got, kinds)
	}
}
