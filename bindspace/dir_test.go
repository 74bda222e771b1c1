package bindspace

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/sockwatch/sockwatch/internal/sys"
	"github.com/sockwatch/sockwatch/internal/testutil"
)

// ops are what happened in a Dir, by name, "" for Rescan; who made a name has to be told where fanotify is.
func ops(t *testing.T, w *Watcher, d *Dir, events []Event) map[string]Op {
	t.Helper()
	seen := map[string]Op{}
	for _, e := range events {
		if e.Dir != d {
			continue
		}
		if e.Op == Appeared && w.Fanotify() && (e.Process == nil || e.Process.PID() != os.Getpid()) {
			t.Errorf("who made it: %+v", e)
		}
		seen[e.Name] = e.Op
	}
	return seen
}

// A directory that is watched for itself and for one below it tells of both, whichever was watched first or is released.
func TestNested(t *testing.T) {
	for _, innerFirst := range []bool{false, true} {
		each(t, func(t *testing.T, w *Watcher) {
			outer := testutil.TempDir(t)
			inner := filepath.Join(outer, "inner")
			if err := os.Mkdir(inner, 0o700); err != nil {
				t.Fatal(err)
			}
			var out, in *Dir
			if innerFirst {
				in = watchSpace(t, w, inner)
			}
			out = watchSpace(t, w, outer)
			if !innerFirst {
				in = watchSpace(t, w, inner)
			}
			touch(t, out.File("a"))
			touch(t, in.File("b"))
			if err := os.Remove(out.File("a")); err != nil {
				t.Fatal(err)
			}
			events := drain(t, w)
			if len(events) != 3 || ops(t, w, out, events)["a"] != Vanished || ops(t, w, in, events)["b"] != Appeared {
				t.Errorf("%+v", events)
			}

			// The inner one is replaced, while somebody has it open.
			fd, err := sys.OpenDir(unix.AT_FDCWD, inner)
			if err != nil {
				t.Fatal(err)
			}
			defer sys.Close(fd)
			other := filepath.Join(outer, "other")
			if err := os.Mkdir(other, 0o700); err != nil {
				t.Fatal(err)
			}
			touch(t, other+"/old")
			if err := unix.Renameat2(unix.AT_FDCWD, other, unix.AT_FDCWD, inner, unix.RENAME_EXCHANGE); err != nil {
				t.Fatal(err)
			}
			events = drain(t, w)
			if ops(t, w, in, events)[""] != Rescan {
				t.Errorf("%+v", events)
			}
			touch(t, in.File("c"))
			want(t, drain(t, w), Appeared, in, "c")

			in.Release()
			touch(t, inner+"/unseen")
			touch(t, out.File("d"))
			want(t, drain(t, w), Appeared, out, "d")
			in = watchSpace(t, w, inner)
			out.Release()
			drain(t, w)
			touch(t, outer+"/unseen")
			touch(t, in.File("e"))
			want(t, drain(t, w), Appeared, in, "e")
		})
	}
}

// A bindspace and a directory of a file to come are one Dir, and told of alike.
func TestOneDir(t *testing.T) {
	each(t, func(t *testing.T, w *Watcher) {
		dir := testutil.TempDir(t)
		d, err := w.WatchParent(dir)
		if err != nil {
			t.Fatal(err)
		}
		if space := watchSpace(t, w, dir); space != d {
			t.Error("two of them")
		}
		d.Release()
		touch(t, dir+"/a")
		events := drain(t, w)
		want(t, events, Appeared, d, "a")
		ops(t, w, d, events)
		d.Release()
	})
}

// A path that leads to a file or to nowhere is watched until it is a directory.
func TestNotADirectoryYet(t *testing.T) {
	each(t, func(t *testing.T, w *Watcher) {
		top := testutil.TempDir(t)
		file, link := filepath.Join(top, "file"), filepath.Join(top, "link")
		touch(t, file)
		if err := os.Symlink("nowhere", link); err != nil {
			t.Fatal(err)
		}
		for _, path := range []string{file, file + "/below", link, link + "/below"} {
			d, err := w.WatchParent(path)
			if err != nil {
				t.Fatal(err)
			}
			if d.self != nil {
				t.Errorf("%s is a directory", path)
			}
		}
		d, err := w.WatchParent(file)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.Remove(file); err != nil {
			t.Fatal(err)
		}
		if err := os.Mkdir(file, 0o700); err != nil {
			t.Fatal(err)
		}
		if events := drain(t, w); ops(t, w, d, events)[""] != Rescan {
			t.Errorf("%+v", events)
		}
		touch(t, d.File("a"))
		want(t, drain(t, w), Appeared, d, "a")
	})
}

// A directory below one that may not be read is watched all the same, but not waited for.
func TestUnreadableAbove(t *testing.T) {
	if os.Getuid() == 0 {
		return // reads everything
	}
	w := newWatcher(t, Options{})
	above := testutil.TempDir(t)
	dir := filepath.Join(above, "space")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(above, 0o311); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.Chmod(above, 0o700) })
	d := watchSpace(t, w, dir)
	touch(t, dir+"/a")
	want(t, drain(t, w), Appeared, d, "a")
	if _, err := w.WatchParent(filepath.Join(above, "none")); err == nil {
		t.Error("nobody can tell when it comes")
	}
}
