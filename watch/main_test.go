package watch

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/rs/zerolog"
	"golang.org/x/sys/unix"

	"github.com/sockwatch/sockwatch/internal/sys"
	"github.com/sockwatch/sockwatch/internal/testutil"
	"github.com/sockwatch/sockwatch/pidfd"
	"github.com/sockwatch/sockwatch/reap"
)

// helpers are what the test binary can be started as. The files of tests add theirs in init functions.
var helpers = testutil.Helpers{}

func TestMain(m *testing.M) { testutil.Main(m, helpers) }

// patience bounds a test that hangs. No test comes near it, and none measures time.
const patience = 3 * time.Minute

// watched is a Watcher whose Events a test reads.
type watched struct {
	*Watcher
	t    testing.TB
	sub  *Subscription
	seen []Event // what was read of sub
}

// newWatched starts a Watcher until the end of the test. That it logs an error is one of the test.
func newWatched(t testing.TB, options ...Options) *watched {
	t.Helper()
	var o Options
	for _, o = range options {
	}
	o.Log = zerolog.New(strict{t})
	return newLogging(t, o)
}

// newLogging is newWatched for a test that reads the log itself.
func newLogging(t testing.TB, o Options) *watched {
	t.Helper()
	w, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.Close() })
	return &watched{Watcher: w, t: t, sub: w.Subscribe(1 << 15)}
}

// strict takes every error that is logged for one of the test.
type strict struct{ t testing.TB }

func (s strict) Write(b []byte) (int, error) { return len(b), nil }

func (s strict) WriteLevel(l zerolog.Level, b []byte) (int, error) {
	if l >= zerolog.ErrorLevel {
		s.t.Errorf("logged: %s", b)
	}
	return len(b), nil
}

// next reads Events until one is as wanted. It keeps them all in seen.
func (w *watched) next(wanted func(Event) bool) Event {
	w.t.Helper()
	timeout := time.After(patience)
	for {
		select {
		case e, ok := <-w.sub.C():
			if !ok {
				w.t.Fatalf("no more events; seen: %s", describe(w.seen))
			}
			w.seen = append(w.seen, e)
			if wanted(e) {
				return e
			}
		case <-timeout:
			w.t.Fatalf("waiting for an event; seen: %s", describe(w.seen))
		}
	}
}

// outcome reads Events until the next outcome of a path.
func (w *watched) outcome(path string) Event {
	w.t.Helper()
	return w.next(func(e Event) bool { return e.Kind == KindOutcome && e.Result.Path == path })
}

// wantOutcome reads Events until the next outcome of a path, which must be this one.
func (w *watched) wantOutcome(path string, outcome reap.Outcome, reason reap.Reason) Event {
	w.t.Helper()
	e := w.outcome(path)
	if e.Result.Outcome != outcome || e.Result.Reason != reason {
		w.t.Fatalf("outcome of %s: %s; want %s %s", path, describe([]Event{e}), outcome, reason)
	}
	return e
}

// claimed reads Events until a path is claimed.
func (w *watched) claimed(path string) Event {
	w.t.Helper()
	return w.next(func(e Event) bool { return e.Kind == KindClaimed && e.Result.Path == path })
}

// mustIdentify waits until the file of a claim is known. There is no event for that; the file itself may not be there yet.
func (w *watched) mustIdentify(c *Claim) {
	w.t.Helper()
	for deadline := time.Now().Add(patience); !w.identified(c); {
		if time.Now().After(deadline) {
			w.t.Fatalf("%s is not identified", c.Path())
		}
		w.settleLoop()
	}
}

// identified tells whether the file of a claim is known.
func (w *watched) identified(c *Claim) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return c.file != nil
}

// settleLoop waits until the loop has answered everything that the kernel tells by now.
func (w *watched) settleLoop() {
	w.t.Helper()
	w.catchUp()
	w.onLoop(func() {})
	w.catchUp()         // with what the loop has found out
	w.onLoop(func() {}) // after the processes that were reported together with the first one, and what that has posted
	for last := true; last; {
		w.onLoop(func() { last = w.anyEnding() }) // whose last deeds are still looked at
	}
}

func (w *watched) anyEnding() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	for o := range w.owners {
		if o.phase == ending {
			return true
		}
	}
	return false
}

// drain reads the Events that there are by now, without waiting, and gives all that were ever read.
func (w *watched) drain() []Event {
	for {
		select {
		case e, ok := <-w.sub.C():
			if !ok {
				return w.seen
			}
			w.seen = append(w.seen, e)
		default:
			return w.seen
		}
	}
}

// hold has nothing looked at that happens in directories, until it is released.
func (w *watched) hold() (release func()) {
	held, done := make(chan struct{}), make(chan struct{})
	w.intake.wake(func() { close(held); <-done })
	<-held
	release = sync.OnceFunc(func() { close(done) })
	w.t.Cleanup(release)
	return release
}

// eachWay runs a test with the best that the kernel gives and with inotify alone.
func eachWay(t *testing.T, test func(t *testing.T, o Options)) {
	t.Helper()
	t.Run("best", func(t *testing.T) { test(t, Options{}) })
	t.Run("inotify", func(t *testing.T) { test(t, Options{InotifyOnly: true}) })
}

// about gives the Events of one kind about a path.
func about(events []Event, k Kind, path string) []Event {
	return slices.DeleteFunc(slices.Clone(events), func(e Event) bool { return e.Kind != k || e.Result.Path != path })
}

// onLoop has the loop call f and waits for it.
func (w *watched) onLoop(f func()) {
	w.t.Helper()
	done := make(chan struct{})
	if !w.post(func() { f(); close(done) }) {
		w.t.Fatal("the watcher is closed")
	}
	wait(w.t, done)
}

// busy has the loop call f, and waits for it, while nothing that happens in directories is looked at.
func (w *watched) busy(f func()) {
	w.t.Helper()
	done := make(chan struct{})
	w.intake.wake(func() { <-done })
	defer close(done)
	w.onLoop(f)
}

// add opens a process and watches it.
func (w *watched) add(pid int, o OwnerOptions) *Owner {
	w.t.Helper()
	return w.addProcess(open(w.t, pid), o)
}

func (w *watched) addProcess(p *pidfd.Process, o OwnerOptions) *Owner {
	w.t.Helper()
	owner, err := w.Add(p, o)
	if err != nil {
		p.Close()
		w.t.Fatal(err)
	}
	return owner
}

// idle fails the test unless the loop has nothing to do ever again, but for what the kernel reports.
func (w *watched) idle() {
	w.t.Helper()
	w.onLoop(func() {
		if n := len(w.retries); n > 0 || w.retries.timeout() != -1 {
			w.t.Errorf("%d claims wait for a timer", n)
		}
		if n := len(w.unseen.all()); n > 0 {
			w.t.Errorf("%d claims wait for a later exit", n)
		}
	})
}

// empty fails the test unless everything that was claimed and watched is given up.
func (w *watched) empty() {
	w.t.Helper()
	w.idle()
	w.onLoop(func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		if n := len(w.owners); n > 0 {
			w.t.Errorf("%d owners are left", n)
		}
		if n := len(w.targets); n > 0 {
			w.t.Errorf("%d targets of epoll are left", n)
		}
		if n := len(w.places); n > 0 {
			w.t.Errorf("%d directories are watched", n)
		}
		if n := len(w.byPID) + len(w.files); n > 0 {
			w.t.Errorf("%d processes and %d files are known", len(w.byPID), len(w.files))
		}
		if n := len(w.holders.byIdentity); n > 0 {
			w.t.Errorf("%d holders are left", n)
		}
	})
}

func wait(t testing.TB, c <-chan struct{}) {
	t.Helper()
	select {
	case <-c:
	case <-time.After(patience):
		t.Fatal("waited in vain")
	}
}

// waitSettled waits until every claim of an owner has an outcome.
func waitSettled(t testing.TB, o *Owner) {
	t.Helper()
	wait(t, o.Exited())
	wait(t, o.Settled())
}

func open(t testing.TB, pid int) *pidfd.Process {
	t.Helper()
	p, err := pidfd.Open(pid)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// kill ends a process and waits for its end, whoever reaps it.
func kill(t testing.TB, p *pidfd.Process) {
	t.Helper()
	if err := p.Signal(unix.SIGKILL); err != nil && !errors.Is(err, pidfd.ErrExited) {
		t.Fatal(err)
	}
	waitProcess(t, p)
}

// duplicate gives a second handle on a process, for a Watcher to take over.
func duplicate(t testing.TB, p *pidfd.Process) *pidfd.Process {
	t.Helper()
	fd, err := sys.Duplicate(int(p.Fd()))
	if err != nil {
		t.Fatal(err)
	}
	again, err := pidfd.FromFD(fd)
	if err != nil {
		t.Fatal(err)
	}
	return again
}

func waitProcess(t testing.TB, p *pidfd.Process) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := p.Wait(ctx); err != nil {
		t.Fatal(err)
	}
}

func exists(t testing.TB, path string) bool {
	t.Helper()
	_, err := os.Lstat(path)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	return err == nil
}

func wantGone(t testing.TB, paths ...string) {
	t.Helper()
	for _, path := range paths {
		if exists(t, path) {
			t.Errorf("%s is still there", path)
		}
	}
}

func wantKept(t testing.TB, paths ...string) {
	t.Helper()
	for _, path := range paths {
		if !exists(t, path) {
			t.Errorf("%s is gone", path)
		}
	}
}

// leaveDead makes a sock-file whose socket is dead.
func leaveDead(t testing.TB, path string) {
	t.Helper()
	l := listen(t, path)
	l.Close()
}

// listen binds a socket of the test's own process. Its file stays when it is closed.
func listen(t testing.TB, path string) io.Closer {
	t.Helper()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	t.Cleanup(func() { l.Close() })
	return l
}

// short is what tests compare of an outcome.
type short struct {
	Outcome reap.Outcome
	Reason  reap.Reason
}

func shorts(results []reap.Result) map[string][]short {
	m := map[string][]short{}
	for _, r := range results {
		m[filepath.Base(r.Path)] = append(m[filepath.Base(r.Path)], short{r.Outcome, r.Reason})
	}
	return m
}

// wantResults compares the outcomes of an owner's claims, by base name.
func wantResults(t testing.TB, o *Owner, want map[string]short) {
	t.Helper()
	wanted := map[string][]short{}
	for name, s := range want {
		wanted[name] = []short{s}
	}
	if diff := cmp.Diff(wanted, shorts(o.Results())); diff != "" {
		t.Errorf("results (-want +got):\n%s", diff)
	}
}

func describe(events []Event) string {
	var b strings.Builder
	for _, e := range events {
		b.WriteString("\n\t" + e.Kind.String() + " " + e.Owner.String() + " " + e.Comm)
		switch e.Kind {
		case KindExited:
			b.WriteString(" " + e.Exit.String())
		case KindClaimed, KindOutcome:
			b.WriteString(" " + e.Source.String() + " " + e.Result.Path)
		}
		if e.Kind == KindOutcome {
			b.WriteString(": " + e.Result.Outcome.String() + " " + string(e.Result.Reason))
			if e.Result.Err != nil {
				b.WriteString(" (" + e.Result.Err.Error() + ")")
			}
		}
	}
	return b.String()
}

// descriptors counts the open descriptors of this process.
func descriptors(t testing.TB) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}
