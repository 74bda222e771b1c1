package watch

import (
	"errors"
	"io/fs"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sockwatch/sockwatch/bindspace"
	"github.com/sockwatch/sockwatch/internal/sys"
	"github.com/sockwatch/sockwatch/reap"
)

// intake makes claims of what happens in watched directories. It has a goroutine beside the loop: who makes names faster
// than they can be looked at delays nobody's removal. The loop, which has the descriptors in its epoll, wakes it.
type intake struct {
	w *Watcher

	mu      sync.Mutex
	woken   *sync.Cond
	due     bool            // there is something to do
	busy    bool            // and it is being done
	closed  bool            // nothing more is done
	work    []func()        // to be done next, after what is queued
	waiting []chan struct{} // closed once that is done

	failed int // how often in a row it could not be waited for what happens; the goroutine's own
}

func (in *intake) init(w *Watcher) {
	in.w = w
	in.woken = sync.NewCond(&in.mu)
}

// wake has the intake read what is queued, and do f after it, if that is not nil.
func (in *intake) wake(f func()) {
	in.mu.Lock()
	defer in.mu.Unlock()
	if f != nil {
		in.work = append(in.work, f)
	}
	in.due = true
	in.woken.Signal()
}

// close has the intake end.
func (in *intake) close() {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.closed = true
	in.woken.Signal()
}

// behind tells whether something that has happened by now was not looked at yet.
func (in *intake) behind() bool {
	in.mu.Lock()
	pending := in.due || in.busy
	in.mu.Unlock()
	if pending {
		return true
	}
	queued, err := in.w.spaces.Queued()
	return queued || err != nil
}

// catchUp waits until all that has happened by now was looked at, or the watcher is closed.
func (in *intake) catchUp() {
	in.mu.Lock()
	if in.closed {
		in.mu.Unlock()
		return
	}
	done := make(chan struct{})
	in.waiting = append(in.waiting, done)
	in.due = true
	in.woken.Signal()
	in.mu.Unlock()
	<-done
}

// run is the intake's goroutine.
func (in *intake) run() {
	for in.turn() {
	}
}

// turn does what is to be done by now, once there is something. It returns false when the intake is closed.
func (in *intake) turn() bool {
	in.mu.Lock()
	for !in.due && !in.closed {
		in.woken.Wait()
	}
	work, waiting, closed := in.work, in.waiting, in.closed
	in.work, in.waiting, in.due, in.busy = nil, nil, false, !closed
	in.mu.Unlock()
	if !closed {
		if err := in.w.spaces.Read(in.w.happened); err != nil {
			in.w.log.Error().Err(err).Msg("read what happened in directories")
		}
		for _, f := range work {
			f()
		}
		in.expect()
		in.mu.Lock()
		in.busy = false
		in.mu.Unlock()
	}
	for _, done := range waiting {
		close(done)
	}
	return !closed
}

// expect has the loop told of what happens next, if need be in a moment: else nothing would be seen to be bound any more.
func (in *intake) expect() {
	err := in.w.expectSpaces(sys.EpollMod)
	if err == nil {
		in.failed = 0
		return
	}
	in.w.log.Error().Err(err).Msg("wait for what happens in directories; it is tried again")
	time.AfterFunc(backoff(in.failed), func() { in.wake(nil) })
	in.failed++
}

// expectSpaces has the loop told, once, when there is something to read.
func (w *Watcher) expectSpaces(ctl func(epfd, fd int, events uint32, token uint64) error) error {
	for _, fd := range w.spaces.Fds() {
		if err := ctl(w.epfd, fd, unix.EPOLLIN|unix.EPOLLONESHOT, tokenSpaces); err != nil {
			return err
		}
	}
	return nil
}

// happened answers events. Of several about one name the last counts: they have all happened, and one look at a name is enough.
func (w *Watcher) happened(events []bindspace.Event) {
	type entry struct {
		dir  *bindspace.Dir
		name string
		op   bindspace.Op
	}
	last := make(map[entry]int, len(events))
	for i, e := range events {
		if reap.IsPrivate(e.Name) {
			continue
		}
		key := entry{e.Dir, e.Name, e.Op}
		if before, ok := last[key]; ok {
			events[before].Close()
			events[before].Op = 0
		}
		last[key] = i
	}
	var seen []sighting
	var vanished []*Claim
	var rescans []*place
	for _, e := range events {
		w.mu.Lock()
		p := w.places[e.Dir]
		if p == nil || reap.IsPrivate(e.Name) { // given up meanwhile, or a removal under way
			w.mu.Unlock()
			e.Close()
			continue
		}
		claims, owners := slices.Clone(p.names[e.Name]), slices.Clone(p.owners)
		if e.Op == bindspace.Appeared {
			claims = slices.DeleteFunc(claims, func(c *Claim) bool { return !c.named })
		}
		w.mu.Unlock()
		switch e.Op {
		case bindspace.Appeared:
			s := sighting{path: e.Dir.File(e.Name), place: p, maker: e.Process, pid: e.PID}
			for _, c := range claims {
				s := s
				s.path, s.claim = c.path, c
				seen = append(seen, s)
			}
			if len(owners) > 0 {
				s.owners = owners
				seen = append(seen, s)
			}
			continue // the event is closed when it has been answered
		case bindspace.Vanished:
			vanished = append(vanished, claims...)
		case bindspace.Rescan:
			rescans = append(rescans, p)
		}
		e.Close()
	}
	w.match(seen)
	for _, e := range events {
		if e.Op == bindspace.Appeared {
			e.Close()
		}
	}
	for _, c := range vanished {
		w.vanished(c)
	}
	for _, p := range rescans {
		w.rescan(p)
	}
}

// vanished is for a claim whose name was removed while its owner lives: by the owner itself, most likely, who is done with it. A
// claim that somebody made by name waits for what the owner binds there next.
func (w *Watcher) vanished(c *Claim) {
	w.mu.Lock()
	path, id, ok := c.path, reap.ID{}, c.state == armed && !c.named && c.file != nil && c.owner.phase == watching
	if ok {
		id = c.file.ID()
	}
	w.mu.Unlock()
	if !ok {
		return
	}
	// Who made the name and that it was removed come by different ways: what has the name now may be newer than both.
	if f, err := reap.Open(path); err == nil {
		same := f.ID() == id
		_ = f.Close()
		if same {
			return
		}
	} else if failing(err) {
		return
	}
	w.post(func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		if c.state == armed && !c.named && c.owner.phase == watching && c.is(id) && c.path == path {
			c.tell(reap.Result{Path: path, Outcome: reap.OutcomeGone})
			c.withdraw()
			c.discard()
		}
	})
}

// rescan does what events that were lost would have led to.
func (w *Watcher) rescan(p *place) {
	w.mu.Lock()
	owners, path := slices.Clone(p.owners), p.dir.Path()
	p.rescan = false
	var seen []sighting
	var known []*Claim
	for _, claims := range p.names {
		for _, c := range claims {
			if c.named {
				seen = append(seen, sighting{path: c.path, place: p, claim: c})
			} else {
				known = append(known, c)
			}
		}
	}
	w.mu.Unlock()
	for some := range slices.Chunk(seen, matchMost) {
		w.match(some)
	}
	if len(owners) > 0 {
		w.rescanSpace(p, path, owners)
	}
	// The end of their names may be among what was lost; those that were moved are known by the new ones now.
	for _, c := range known {
		w.vanished(c)
	}
}

// rescanSpace looks at all sock-files of a bindspace.
func (w *Watcher) rescanSpace(p *place, path string, owners []*Owner) {
	w.log.Debug().Str("bindspace", path).Msg("look at all of it anew")
	var seen []sighting
	for f, err := range reap.List(path) {
		if err != nil {
			if !errors.Is(err, fs.ErrNotExist) { // gone again: it is watched for being made anew
				w.log.Warn().Err(err).Str("bindspace", path).Msg("look at all of it anew")
			}
			continue
		}
		seen = append(seen, sighting{path: f.Path(), file: f, place: p, owners: owners, old: true})
		if len(seen) == matchMost {
			w.match(seen)
			seen = nil
		}
	}
	w.match(seen)
}
