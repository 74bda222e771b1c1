package bindspace

import (
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/sockwatch/sockwatch/internal/sys"
	"github.com/sockwatch/sockwatch/internal/testutil"
)

// touch makes an empty file.
func touch(t testing.TB, path string) {
	t.Helper()
	fd, err := unix.Open(path, unix.O_CREAT|unix.O_WRONLY|unix.O_CLOEXEC, 0o600)
	if err != nil {
		t.Errorf("%s: %v", path, err)
		return
	}
	unix.Close(fd)
}

func watchSpace(t *testing.T, w *Watcher, dir string) *Dir {
	t.Helper()
	d, err := w.WatchSpace(dir)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// drain reads until nothing is queued.
func drain(t *testing.T, w *Watcher) []Event {
	t.Helper()
	var events []Event
	for queued(t, w) {
		events = append(events, readNow(t, w)...)
	}
	return events
}

func queued(t *testing.T, w *Watcher) bool {
	t.Helper()
	queued, err := w.Queued()
	if err != nil {
		t.Fatal(err)
	}
	return queued
}

func openFiles(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

func TestQueued(t *testing.T) {
	each(t, func(t *testing.T, w *Watcher) {
		dir := ownParent(t)
		watchSpace(t, w, dir)
		if queued(t, w) {
			t.Error("at first")
		}
		touch(t, dir+"/a")
		if !queued(t, w) {
			t.Error("a name was made")
		}
		if n, err := sys.InotifyQueued(w.inotify); err != nil || (n > 0) == w.Fanotify() {
			t.Errorf("inotify has queued %d bytes (%v): a name is to be told once", n, err)
		}
		if err := w.Read(func(events []Event) {
			if !queued(t, w) {
				t.Error("it is not answered yet")
			}
			for _, e := range events {
				e.Close()
			}
		}); err != nil {
			t.Fatal(err)
		}
		if queued(t, w) {
			t.Error("all was answered")
		}
	})
}

// A Rescan that was noted in a Read that failed is still to come.
func TestRescanIsQueued(t *testing.T) {
	w := newWatcher(t, Options{InotifyOnly: true})
	d := watchSpace(t, w, ownParent(t))
	w.mu.Lock()
	d.askRescan()
	d.askRescan()
	w.mu.Unlock()
	if !queued(t, w) {
		t.Error("a Rescan waits")
	}
	want(t, readNow(t, w), Rescan, d, "")
	if queued(t, w) {
		t.Error("it was yielded")
	}
}

// ownParent is the path of a directory whose parent, which is watched as well, nobody else makes anything in.
func ownParent(t *testing.T) string { return testutil.TempDir(t) + "/space" }

// What is queued while Read yields is left for the next one, and never a removal before its making.
func TestReadIsBounded(t *testing.T) {
	each(t, func(t *testing.T, w *Watcher) {
		dir := testutil.TempDir(t)
		d := watchSpace(t, w, dir)
		made := 0
		next := func() {
			touch(t, d.File(strconv.Itoa(made)))
			if err := os.Remove(d.File(strconv.Itoa(made))); err != nil {
				t.Error(err)
			}
			made++
		}
		for range 2100 { // not what fills buffers, of either queue
			next()
		}
		appeared := map[string]bool{}
		answer := func(events []Event) {
			for _, e := range events {
				switch e.Op {
				case Appeared:
					appeared[e.Name] = true
				case Vanished:
					if !appeared[e.Name] {
						t.Errorf("%s vanished before it appeared", e.Name)
					}
				case Rescan:
					t.Error("overflow")
				}
				e.Close()
			}
		}
		seen := 0
		if err := w.Read(func(events []Event) {
			answer(events)
			seen += len(events)
			for range len(events) { // faster than they are read
				next()
			}
		}); err != nil {
			t.Fatal(err)
		}
		if seen < 4200 || seen > 4200+batchMost {
			t.Errorf("%d events of 4200", seen)
		}
		for queued(t, w) {
			if err := w.Read(answer); err != nil {
				t.Fatal(err)
			}
		}
		if len(appeared) != made {
			t.Errorf("%d of %d names", len(appeared), made)
		}
	})
}

// Read returns beside somebody who never stops making names, and is never so far ahead that the queues overflow.
func TestReadBesideMaker(t *testing.T) {
	each(t, func(t *testing.T, w *Watcher) {
		dir := testutil.TempDir(t)
		watchSpace(t, w, dir)
		stop, ahead := make(chan struct{}), make(chan struct{}, 256)
		var maker sync.WaitGroup
		maker.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				case ahead <- struct{}{}:
				}
				name := dir + "/" + strconv.Itoa(i)
				touch(t, name)
				_ = os.Remove(name)
			}
		})
		appeared := map[string]bool{}
		for range 200 {
			if err := w.Read(func(events []Event) {
				for _, e := range events {
					if e.Op == Appeared {
						if !appeared[e.Name] {
							<-ahead
						}
						appeared[e.Name] = true
					} else if e.Op == Vanished && !appeared[e.Name] {
						t.Errorf("%s vanished before it appeared", e.Name)
					}
					e.Close()
				}
			}); err != nil {
				t.Error(err)
			}
		}
		close(stop)
		maker.Wait()
	})
}

// When the kernel's queue overflows, every directory is to be looked at, and goes on being watched. It costs neither
// descriptors nor memory.
func TestOverflow(t *testing.T) {
	each(t, func(t *testing.T, w *Watcher) {
		dir := testutil.TempDir(t)
		d := watchSpace(t, w, dir)
		descriptors := openFiles(t)
		for i := range 20_000 { // max_queued_events is 16384
			name := dir + "/" + strconv.Itoa(i)
			touch(t, name)
			if err := os.Remove(name); err != nil {
				t.Fatal(err)
			}
		}
		if n := openFiles(t); n != descriptors {
			t.Errorf("%d descriptors, %d before, with all unread", n, descriptors)
		}
		var before, after runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&before)
		rescan, most := false, 0
		for queued(t, w) {
			if err := w.Read(func(events []Event) {
				if len(events) > batchMost {
					t.Errorf("%d events at once", len(events))
				}
				most = max(most, openFiles(t))
				for _, e := range events {
					rescan = rescan || (e.Op == Rescan && e.Dir == d)
					e.Close()
				}
			}); err != nil {
				t.Fatal(err)
			}
		}
		runtime.GC()
		runtime.ReadMemStats(&after)
		if !rescan {
			t.Error("no Rescan after an overflow")
		}
		if most > descriptors+2*batchMost {
			t.Errorf("%d descriptors at once, %d before", most, descriptors)
		}
		if n := openFiles(t); n != descriptors {
			t.Errorf("%d descriptors, %d before", n, descriptors)
		}
		if after.HeapAlloc > before.HeapAlloc+1<<20 {
			t.Errorf("%d bytes of heap, %d before", after.HeapAlloc, before.HeapAlloc)
		}
		listen(t, dir+"/after")
		want(t, read(t, w), Appeared, d, "after")
	})
}

// What fanotify has queued for a directory that is released costs no descriptor, neither what is unread at Close.
func TestUnwantedEvents(t *testing.T) {
	testutil.Require(t, testutil.Root)
	before := openFiles(t)
	w, err := New(Options{})
	if err != nil {
		t.Fatal(err)
	}
	dir, other := testutil.TempDir(t), testutil.TempDir(t)
	d := watchSpace(t, w, dir)
	watchSpace(t, w, other)
	for i := range 100 {
		touch(t, dir+"/"+strconv.Itoa(i))
	}
	d.Release()
	if events := drain(t, w); len(events) > 0 {
		t.Errorf("%d events of a released directory", len(events))
	}
	for i := range 1000 {
		touch(t, other+"/"+strconv.Itoa(i))
	}
	// Close from within: what is in hand is yielded, what is read is closed, what is queued is discarded.
	batches := 0
	err = w.Read(func(events []Event) {
		if batches++; batches == 1 {
			if err := w.Close(); err != nil {
				t.Error(err)
			}
		}
		for _, e := range events {
			e.Close()
		}
	})
	if !errors.Is(err, os.ErrClosed) {
		t.Errorf("closed while reading: %v", err)
	}
	if n := openFiles(t); n != before {
		t.Errorf("%d descriptors, %d before", n, before)
	}
}

func TestClosed(t *testing.T) {
	each(t, func(t *testing.T, w *Watcher) {
		d := watchSpace(t, w, testutil.TempDir(t))
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		d.Release()
		_, errWatch := w.WatchParent("/tmp")
		_, errQueued := w.Queued()
		for _, err := range []error{w.Close(), errWatch, errQueued, w.Read(func([]Event) {})} {
			if !errors.Is(err, os.ErrClosed) {
				t.Errorf("%v", err)
			}
		}
	})
}

// Directories come, go and are released by many, while one reads.
func TestConcurrent(t *testing.T) {
	each(t, func(t *testing.T, w *Watcher) {
		top := testutil.TempDir(t)
		var users sync.WaitGroup
		for u := range 4 {
			users.Go(func() {
				for i := range 100 {
					dir := filepath.Join(top, strconv.Itoa(u%2), strconv.Itoa(i%3))
					watch := w.WatchParent
					if i%2 == 0 {
						watch = w.WatchSpace
					}
					d, err := watch(dir)
					if err != nil {
						t.Error(err)
						return
					}
					d.Retain()
					_ = os.WriteFile(d.File(strconv.Itoa(u)), nil, 0o600)
					_ = os.Remove(d.File(strconv.Itoa(u)))
					if i%7 == 0 {
						_ = os.Remove(dir)
					}
					if _, err := w.Queued(); err != nil {
						t.Error(err)
					}
					w.Fds()
					d.Release()
					d.Release()
				}
			})
		}
		done := make(chan struct{})
		go func() {
			users.Wait()
			close(done)
		}()
		for ended := false; !ended; {
			select {
			case <-done:
				ended = true
			default:
			}
			if err := w.Read(func(events []Event) {
				d, err := w.WatchParent(top)
				if err != nil {
					t.Error(err)
					return
				}
				for _, e := range events {
					e.Close()
				}
				d.Release()
			}); err != nil {
				t.Fatal(err)
			}
		}
		drain(t, w)
		if len(w.nodes)+len(w.marks)+len(w.dirs)+len(w.rescans) > 0 {
			t.Errorf("left: %v %v %v %v", w.nodes, w.marks, w.dirs, w.rescans)
		}
	})
}
