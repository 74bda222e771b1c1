package tracing

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/sys/unix"

	"github.com/sockwatch/sockwatch/ebpf"
	"github.com/sockwatch/sockwatch/internal/testutil"
	"github.com/sockwatch/sockwatch/reap"
	"github.com/sockwatch/sockwatch/watch"
)

// patience bounds the wait for an event that does not come. None of the tests measures time.
const patience = 3 * time.Minute

// fexit is the right to have ebpf.HooksFexit, found out by trying.
var fexit = testutil.Tried("fexit", sync.OnceValue(func() error {
	tracer, err := ebpf.Open(ebpf.Options{Hooks: ebpf.HooksFexit})
	if err != nil {
		return err
	}
	return tracer.Close()
}))

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// world is a watcher and a Source that care for what is in one directory, and for some processes. Others on this machine bind, too, and
// what they leave behind is not ours to remove.
type world struct {
	t      *testing.T
	dir    string
	sub    string // of one test, below dir
	tests  int
	w      *watch.Watcher
	events <-chan watch.Event
	source *Source
	bound  chan ebpf.Event // what Options.Bound was told
	lost   atomic.Int32    // how often Options.Lost was

	mu     sync.Mutex
	pids   map[int]bool             // wanted, whatever the path
	gates  map[string]chan struct{} // the paths whose events are held until that is closed
	gated  chan string              // the path of an event that is held
	except string                   // a path that is not wanted
	paths  []string                 // of the events of our processes that Options.Wanted was asked of
}

func newWorld(t *testing.T) *world {
	t.Helper()
	testutil.Require(t, testutil.Root, testutil.BPF)
	dir := testutil.TempDir(t) // which goes when nothing is removed there any more
	w, err := watch.New(watch.Options{Log: zerolog.New(zerolog.NewTestWriter(t)).Level(zerolog.WarnLevel)})
	must(t, err)
	t.Cleanup(func() { must(t, w.Close()) })
	return &world{
		t: t, dir: dir, w: w, events: w.Subscribe(1 << 16).C(),
		pids: map[int]bool{}, gates: map[string]chan struct{}{}, gated: make(chan string, 1), bound: make(chan ebpf.Event, 1<<16),
	}
}

// trace starts the Source.
func (w *world) trace(o ebpf.Options) {
	w.t.Helper()
	if o.Hooks == ebpf.HooksFexit {
		testutil.Require(w.t, fexit)
	}
	if o.RingSize == 0 {
		o.RingSize = 16 << 20 // what others on this machine bind must not push out what is awaited
	}
	tracer, err := ebpf.Open(o)
	must(w.t, err)
	w.source = Start(w.w, tracer, Options{
		Log: zerolog.Nop(), Wanted: w.wanted, Bound: func(e ebpf.Event) { w.bound <- e }, Lost: func(uint64) { w.lost.Add(1) },
	})
	t := w.t // not that of the last of several tests
	t.Cleanup(func() {
		w.mu.Lock()
		for path := range w.gates { // of a test that has failed
			w.opened(path)
		}
		w.mu.Unlock()
		must(t, w.source.Close())
	})
}

func (w *world) wanted(e ebpf.Event) bool {
	w.mu.Lock()
	gate := w.gates[e.Path]
	ours := w.pids[e.Owner.PID] || strings.HasPrefix(e.Path, w.dir+"/")
	if ours {
		w.paths = append(w.paths, e.Path)
	}
	ours = ours && e.Path != w.except
	w.mu.Unlock()
	if ours && gate != nil && e.Via != 0 {
		w.gated <- e.Path
		<-gate
	}
	return ours
}

// in is the world for a test of several that share one, one after the other.
func (w *world) in(t *testing.T) *world {
	w.t = t
	w.tests++
	w.sub = strconv.Itoa(w.tests)
	return w
}

// path is one in the directory, which is made if need be.
func (w *world) path(name string) string {
	w.t.Helper()
	path := filepath.Join(w.dir, w.sub, name)
	must(w.t, os.MkdirAll(filepath.Dir(path), 0o755))
	return path
}

// hold has the Source wait before it opens what is bound to the path.
func (w *world) hold(path string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.gates[path] = make(chan struct{})
}

// held waits until the Source has come to a path that is held.
func (w *world) held(path string) {
	w.t.Helper()
	select {
	case got := <-w.gated:
		if got != path {
			w.t.Fatalf("held at %s, want %s", got, path)
		}
	case <-time.After(patience):
		w.t.Fatalf("no event of %s came", path)
	}
}

// caught tells whether the Source has come to a path that is held, and not lost its event. Then it finds the file by a scan, and claims it.
func (w *world) caught(path string) bool {
	w.t.Helper()
	deadline := time.After(patience)
	for {
		select {
		case got := <-w.gated:
			if got == path {
				return true
			}
		case e := <-w.events:
			if e.Kind == watch.KindClaimed && e.Result.Path == path {
				return false
			}
		case <-deadline:
			w.t.Fatalf("no event of %s came", path)
		}
	}
}

// release has the Source go on.
func (w *world) release(path string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.opened(path)
}

func (w *world) opened(path string) {
	close(w.gates[path])
	delete(w.gates, path)
}

// want has all binds of a process wanted.
func (w *world) want(p process) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.pids[p.PID()] = true
}

// next waits for the next event of a kind and a process.
func (w *world) next(kind watch.Kind, pid int) watch.Event {
	w.t.Helper()
	return w.until(kind.String(), func(e watch.Event) bool { return e.Kind == kind && e.Owner.PID == pid })
}

// outcomeOf waits for the next outcome of a path.
func (w *world) outcomeOf(path string) watch.Event {
	w.t.Helper()
	return w.until("outcome of "+path, func(e watch.Event) bool { return e.Kind == watch.KindOutcome && e.Result.Path == path })
}

func (w *world) until(what string, is func(watch.Event) bool) watch.Event {
	w.t.Helper()
	deadline := time.After(patience)
	for {
		select {
		case e := <-w.events:
			if is(e) {
				return e
			}
		case <-deadline:
			w.t.Fatalf("waited in vain: %s", what)
		}
	}
}

// caughtUp waits until the Source has done with all that was bound before.
func (w *world) caughtUp() {
	w.t.Helper()
	w.caughtUpBut(func(watch.Event) {})
}

// caughtUpBut is caughtUp that tells of all events that come until then.
func (w *world) caughtUpBut(tell func(watch.Event)) {
	w.t.Helper()
	p, path := start(w.t, 0), w.path("last")
	p.do("bind", path)
	w.until("last claim", func(e watch.Event) bool {
		tell(e)
		return e.Kind == watch.KindClaimed && e.Owner.PID == p.PID()
	})
}

// nothing is told of what a process has bound.
func (w *world) nothing(pid int) {
	w.t.Helper()
	w.caughtUpBut(func(e watch.Event) {
		if e.Owner.PID == pid {
			w.t.Errorf("told of %+v", e)
		}
	})
}

// exclude has a path not wanted.
func (w *world) exclude(path string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.except = path
}

// asked are the paths of our processes that Options.Wanted was asked of.
func (w *world) asked() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.paths)
}

// claimed waits for the claim of a path, which must be by tracing.
func (w *world) claimed(pid int, path string) {
	w.t.Helper()
	if e := w.next(watch.KindClaimed, pid); e.Source != watch.SourceTrace || e.Result.Path != path {
		w.t.Errorf("claimed %s by %s, want %s", e.Result.Path, e.Source, path)
	}
}

// removed waits for the outcome of the one claim of a process, and that it is removed.
func (w *world) removed(pid int) {
	w.t.Helper()
	if e := w.next(watch.KindOutcome, pid); e.Result.Outcome != reap.OutcomeRemoved || e.Source != watch.SourceTrace {
		w.t.Errorf("%s, claimed by %s: %s (%s) %v", e.Result.Path, e.Source, e.Result.Outcome, e.Result.Reason, e.Result.Err)
	}
}

// claims are the paths that are claimed now for a process.
func (w *world) claims(pid int) (paths []string) {
	for _, o := range w.w.Owners() {
		if o.Identity().PID == pid {
			for _, c := range o.Claims() {
				paths = append(paths, c.Path())
			}
		}
	}
	return paths
}

// absent fails the test when there is something of that name.
func absent(t *testing.T, path string) {
	t.Helper()
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%s is there: %v", path, err)
	}
}

// present fails the test when there is nothing of that name.
func present(t *testing.T, path string) {
	t.Helper()
	if _, err := os.Lstat(path); err != nil {
		t.Error(err)
	}
}

// openDir opens a directory that is not to be reached any more when its process is gone.
func openDir(t *testing.T, path string) int {
	t.Helper()
	fd, err := unix.Open(path, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	must(t, err)
	t.Cleanup(func() { must(t, unix.Close(fd)) })
	return fd
}
