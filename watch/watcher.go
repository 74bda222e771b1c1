package watch

import (
	"errors"
	"fmt"
	"runtime"
	"sync"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/sys/unix"

	"github.com/sockwatch/sockwatch/bindspace"
	"github.com/sockwatch/sockwatch/internal/sys"
	"github.com/sockwatch/sockwatch/reap"
)

// Errors that callers decide on.
var (
	// ErrLimit: no descriptor, epoll or inotify watch is left (RLIMIT_NOFILE, fs.file-max, fs.epoll.max_user_watches).
	ErrLimit = errors.New("descriptor limit reached")
	// ErrClosed: the Watcher is closed.
	ErrClosed = errors.New("watcher is closed")
	// ErrReleased: the Owner was released.
	ErrReleased = errors.New("owner was released")
)

// Options says how a Watcher works. The zero value logs nothing and removes files.
type Options struct {
	Log zerolog.Logger
	// DryRun decides as ever and removes nothing: Results say what would have been.
	DryRun bool
	// InotifyOnly leaves fanotify(7), also where it is allowed: then who made a sock-file in a bindspace is found by who has its socket
	// open.
	InotifyOnly bool
	// Policy is for services.
	Policy Policy
}

// Watcher watches processes. Safe for concurrent use.
type Watcher struct {
	log    zerolog.Logger
	dryRun bool
	policy Policy

	epfd int
	wake int // eventfd: there are tasks
	loop sync.WaitGroup

	mu      sync.Mutex // never held while a file is opened, probed or removed
	closed  bool
	tasks   []func() // to be run by the loop
	token   uint64   // the last one given out
	targets map[uint64]target
	owners  map[*Owner]struct{}
	subs    map[*Subscription]struct{}
	byPID   map[int]*Owner // whose process has that pid
	files   map[reap.ID]*Claim
	places  map[*bindspace.Dir]*place

	spaces   *bindspace.Watcher
	intake   intake
	deriving sync.Mutex // held while an Owner is made for a process that was found
	reporter reporter

	// The rest belongs to the loop alone.
	retries   retryQueue
	holders   holders
	unseen    unseen
	elsewhere elsewhere
	settling  []chan struct{} // to be closed once all is settled that can be
}

// target is what epoll reports about.
type target interface {
	// ready is called by the loop. hup: the process was reaped.
	ready(hup bool)
}

// Tokens of the descriptors that are no target.
const (
	tokenWake uint64 = iota
	tokenSpaces
	tokenFirstTarget
)

// New starts a Watcher: epoll(7), eventfd(2), and what package bindspace opens.
func New(o Options) (*Watcher, error) {
	w := &Watcher{
		log: o.Log, dryRun: o.DryRun, policy: o.Policy,
		epfd: -1, wake: -1,
		token:   tokenFirstTarget,
		targets: map[uint64]target{},
		owners:  map[*Owner]struct{}{},
		subs:    map[*Subscription]struct{}{},
		byPID:   map[int]*Owner{},
		files:   map[reap.ID]*Claim{},
		places:  map[*bindspace.Dir]*place{},
	}
	w.holders.init(w)
	w.intake.init(w)
	if err := w.open(bindspace.Options{InotifyOnly: o.InotifyOnly}); err != nil {
		w.closeDescriptors()
		return nil, limit(fmt.Errorf("start a watcher: %w", err))
	}
	w.loop.Go(w.run)
	w.loop.Go(w.intake.run)
	return w, nil
}

func (w *Watcher) open(o bindspace.Options) (err error) {
	if w.epfd, err = sys.EpollCreate(); err != nil {
		return err
	}
	if w.wake, err = sys.Eventfd(); err != nil {
		return err
	}
	if w.spaces, err = bindspace.New(o); err != nil {
		return err
	}
	if err := sys.EpollAdd(w.epfd, w.wake, unix.EPOLLIN, tokenWake); err != nil {
		return err
	}
	return w.expectSpaces(sys.EpollAdd)
}

func (w *Watcher) closeDescriptors() {
	if w.spaces != nil {
		_ = w.spaces.Close()
	}
	for _, fd := range []int{w.wake, w.epfd} {
		if fd >= 0 {
			_ = sys.Close(fd)
		}
	}
}

// limit adds ErrLimit to an error that says that something has run out.
func limit(err error) error {
	for _, errno := range []unix.Errno{unix.EMFILE, unix.ENFILE, unix.ENOSPC} {
		if errors.Is(err, errno) {
			return fmt.Errorf("%w: %w", ErrLimit, err)
		}
	}
	return err
}

// post has the loop run f. It returns false, and f is never run, once the watcher is closed.
func (w *Watcher) post(f func()) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		return false
	}
	w.tasks = append(w.tasks, f)
	w.wakeLoop()
	return true
}

// wakeLoop has the loop run what is in w.tasks. The caller holds w.mu.
func (w *Watcher) wakeLoop() {
	if err := sys.EventfdSet(w.wake); err != nil {
		w.log.Error().Err(err).Msg("wake the loop")
	}
}

// run is the loop. Without events and without retries it sleeps and costs nothing.
func (w *Watcher) run() {
	// It waits in a system call nearly all of its life; with a thread of its own it need not be found one on the way back.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var (
		epoll sys.Epoll
		ready []sys.EpollEvent
	)
	for {
		err := epoll.Wait(w.epfd, w.retries.timeout(), func(e sys.EpollEvent) { ready = append(ready, e) })
		if err != nil {
			w.log.Error().Err(err).Msg("the loop waits for events")
			return
		}
		for _, e := range ready {
			switch e.Token {
			case tokenWake:
				if !w.runTasks() {
					return
				}
			case tokenSpaces:
				w.intake.wake(nil)
			}
		}
		for _, e := range ready {
			w.mu.Lock()
			t := w.targets[e.Token]
			w.mu.Unlock()
			if t != nil {
				t.ready(e.Events&unix.EPOLLHUP != 0)
			}
		}
		ready = ready[:0]
		w.retryDue(time.Now())
		w.tellSettled()
	}
}

// runTasks runs what was posted. It returns false when the watcher is closed.
func (w *Watcher) runTasks() bool {
	if err := sys.EventfdReset(w.wake); err != nil {
		w.log.Error().Err(err).Msg("reset the loop's eventfd")
	}
	w.mu.Lock()
	tasks, closed := w.tasks, w.closed
	w.tasks = nil
	w.mu.Unlock()
	for _, f := range tasks {
		f()
	}
	return !closed
}

// watchTarget adds a descriptor that is reported to t and returns its token. The caller holds w.mu.
func (w *Watcher) watchTarget(fd uintptr, t target) (uint64, error) {
	w.token++
	// Before epoll knows it: a process that is dead already is reported at once.
	w.targets[w.token] = t
	if err := sys.EpollAdd(w.epfd, int(fd), unix.EPOLLIN, w.token); err != nil {
		delete(w.targets, w.token)
		return 0, err
	}
	return w.token, nil
}

// unwatchTarget ends watching a descriptor, before it is closed. The caller holds w.mu.
func (w *Watcher) unwatchTarget(fd uintptr, token uint64) {
	delete(w.targets, token)
	if err := sys.EpollDel(w.epfd, int(fd)); err != nil {
		w.log.Error().Err(err).Msg("stop watching a descriptor")
	}
}

// Close ends the watcher and gives up every descriptor. It touches no file: what is claimed stays. Channels of Owners
// and Subscriptions are closed. It returns nil; a second call does nothing.
func (w *Watcher) Close() error {
	w.mu.Lock()
	if w.closed {
		w.mu.Unlock()
		return nil
	}
	w.closed = true
	_ = sys.EventfdSet(w.wake)
	w.mu.Unlock()

	w.holders.cancel()
	w.intake.close()
	w.reporter.close()
	w.loop.Wait()
	w.mu.Lock()
	defer w.mu.Unlock()
	for len(w.tasks) > 0 { // what came after the loop's end
		tasks := w.tasks
		w.tasks = nil
		w.mu.Unlock()
		for _, f := range tasks {
			f()
		}
		w.mu.Lock()
	}
	for s := range w.subs {
		delete(w.subs, s)
		close(s.c)
	}
	for _, done := range w.settling {
		close(done)
	}
	w.elsewhere.end()
	for _, c := range w.holders.searching { // that has ended, too
		c.later.searched = false
		c.discard()
	}
	for o := range w.owners {
		o.finish()
	}
	w.closeDescriptors()
	return nil
}
