package tracing

import (
	"context"
	"errors"
	"io"
	"os"
	"sync"

	"github.com/rs/zerolog"

	"github.com/sockwatch/sockwatch/ebpf"
	"github.com/sockwatch/sockwatch/reap"
	"github.com/sockwatch/sockwatch/watch"
)

// Options say which binds are claimed, and how.
type Options struct {
	Log zerolog.Logger
	// Open opens a sock-file by its path below a root directory, "" for ours and else /proc/PID/root. Nil is reap.Open and reap.OpenIn.
	Open func(root, path string) (*reap.File, error)
	// Wanted says whether a bind is claimed. Nil is all. It and Bound are called by two goroutines.
	Wanted func(ebpf.Event) bool
	// Bound is told of each bind that is wanted, before it is claimed, and of each that was found after events were lost: of those Via is
	// zero, and so is Time. Nil is nobody.
	Bound func(ebpf.Event)
	// Lost is told how many events were lost since the beginning, each time that some were, before what they told of is looked for. Nil is
	// nobody.
	Lost func(n uint64)
}

// Source is a Tracer whose events become claims.
type Source struct {
	o       Options
	watcher *watch.Watcher
	tracer  *ebpf.Tracer
	ended   sync.WaitGroup
	backlog backlog
	wakes   chan struct{} // there is a backlog
	told    told

	// Until when what was bound before is looked for, and what was lost.
	before, lost       context.Context
	endBefore, endLost context.CancelFunc
	unfinished         bool // what was lost was not all looked for. Of the goroutine that does

	// Of the goroutine that reads.
	claims map[uint64]claimed // by the inode of the socket, where its death will be told
	failed error
}

// claimed is a file that was claimed.
type claimed struct {
	claim *watch.Claim
	file  reap.ID
}

// Start claims what is bound now, and from now on what a Tracer tells of. The Tracer is the Source's from then on. It returns when it
// knows which sockets are bound now, and claims their files later.
func Start(w *watch.Watcher, t *ebpf.Tracer, o Options) *Source {
	s := &Source{o: o, watcher: w, tracer: t, claims: map[uint64]claimed{}, wakes: make(chan struct{}, 1)}
	if s.o.Open == nil {
		s.o.Open = openFile
	}
	s.lost, s.endLost = context.WithCancel(context.Background())
	s.before, s.endBefore = context.WithCancel(s.lost)
	s.ended.Go(s.run)
	sockets := s.sockets() // now, lest what is bound later and lost is taken for old
	s.ended.Go(func() {    // beside the reading: to look at thousands of processes takes seconds
		_ = s.scan(s.before, sockets, false)
		for range s.wakes {
			lost, passedOn := s.backlog.take()
			if len(passedOn) > 0 {
				s.unfinished = s.claimPassedOn(passedOn) != nil || s.unfinished
			}
			s.unfinished = lost && s.scanLost() != nil || s.unfinished
		}
	})
	return s
}

// Tracer is what the events come from, for its Hooks, Refusals and Drops.
func (s *Source) Tracer() *ebpf.Tracer { return s.tracer }

// Finish takes the programs off their hooks and waits until all is claimed that they told of, and what was lost is looked for. What was
// bound before is not looked for any longer: nothing will be told of it. The Source must still be closed.
//
// The error is that of reading, if that has failed before, and that of ctx if it has ended before all was looked for that was lost.
func (s *Source) Finish(ctx context.Context) error {
	s.endBefore()
	defer context.AfterFunc(ctx, s.endLost)()
	err := s.tracer.Detach()
	s.ended.Wait()
	if s.unfinished {
		err = errors.Join(err, ctx.Err())
	}
	return errors.Join(s.failed, err)
}

// Close ends the tracing. The claims stay the watcher's.
func (s *Source) Close() error {
	s.endLost()
	err := s.tracer.Close()
	s.ended.Wait()
	return err
}

func (s *Source) run() {
	defer close(s.wakes)
	for {
		e, err := s.tracer.Read()
		switch {
		case errors.Is(err, ebpf.ErrDropped):
			if s.o.Lost != nil {
				s.o.Lost(s.tracer.Drops())
			}
			s.backlog.addLost()
			s.wake()
		case errors.Is(err, io.EOF), errors.Is(err, os.ErrClosed):
			return
		case err != nil:
			s.failed = err
			s.o.Log.Error().Err(err).Msg("tracing has ended")
			return
		case e.Kind == ebpf.KindClosed:
			s.closed(e)
		case e.Owner.PID != os.Getpid(): // our own end is nothing to wait for
			s.bound(e)
		}
	}
}

// wake has the backlog looked at.
func (s *Source) wake() {
	select {
	case s.wakes <- struct{}{}:
	default: // that is to come, and is later than now
	}
}

// bound claims the sock-file of a bind.
func (s *Source) bound(e ebpf.Event) {
	if s.o.Wanted != nil && !s.o.Wanted(e) {
		return
	}
	s.tell(e)
	f, err := s.open(e)
	switch {
	case errors.Is(err, errPassedOn):
		s.backlog.addPassedOn(e)
		s.wake()
	case err != nil:
		s.unclaimed(e, err)
	default:
		s.claim(e, f)
	}
}

// unclaimed notes that a bind is not claimed: its file was removed at once, for one.
func (s *Source) unclaimed(e ebpf.Event, err error) {
	s.o.Log.Debug().Err(err).Int("pid", e.Owner.PID).Str("path", e.Path).Msg("the sock-file of a bind is not claimed")
}

// tell tells of a bind, unless that was done.
func (s *Source) tell(e ebpf.Event) {
	if s.o.Bound != nil && s.told.first(e) {
		s.o.Bound(e)
	}
}

// claim has the watcher claim f for the process that an event tells of.
func (s *Source) claim(e ebpf.Event, f *reap.File) (added bool) {
	_, _ = f.Probe() // it remembers to have been alive
	id := f.ID()
	c, added, err := s.watcher.ClaimFor(e.Owner, e.Comm, f, watch.SourceTrace)
	if err != nil {
		_ = f.Close()
		s.o.Log.Warn().Err(err).Int("pid", e.Owner.PID).Msg("a bind is not claimed")
		return false
	}
	if s.tracer.Hooks() == ebpf.HooksFexit && e.Via != 0 {
		s.claims[e.Socket] = claimed{c, id}
	}
	return added
}

// closed settles the claim of a socket that is about to die.
func (s *Source) closed(e ebpf.Event) {
	if c, ok := s.claims[e.Socket]; ok {
		delete(s.claims, e.Socket)
		c.claim.SocketClosed(c.file)
	}
}
