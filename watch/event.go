package watch

import (
	"fmt"
	"sync/atomic"
	"time"

	"github.com/sockwatch/sockwatch/pidfd"
	"github.com/sockwatch/sockwatch/reap"
)

// Kind is the kind of an Event.
type Kind int

// The kinds of Events.
const (
	// KindClaimed: a sock-file, or the path of one to come, is claimed for an owner.
	KindClaimed Kind = iota + 1
	// KindExited: the owner ended. For a process that is not our child there can be a second one when its parent has
	// reaped it, for only then is it known how it ended.
	KindExited
	// KindOutcome: what became of a claim. A claim that was kept because its socket lives has another one at its end.
	KindOutcome
)

var kindNames = map[Kind]string{KindClaimed: "claim", KindExited: "exit", KindOutcome: "outcome"}

// String gives the kind's name, part of the JSON interface.
func (k Kind) String() string { return enumName(kindNames, k) }

// MarshalText gives the kind's name.
func (k Kind) MarshalText() ([]byte, error) { return []byte(k.String()), nil }

// Source is how a claim was learnt.
type Source int

// The sources, the most authoritative first. Which one is shown of a file known from several is all that it decides:
// removal is always by identity and probe.
const (
	SourceExplicit   Source = iota + 1 // the caller named the path
	SourceNotify                       // the process itself said so
	SourceTrace                        // seen by the kernel's tracing
	SourceBindspace                    // seen to appear in a directory of the owner
	SourceSnapshot                     // found among what the owner held
	SourceConvention                   // rebuilt from a name pattern
	SourceSweep                        // found dead, without a claim
)

var sourceNames = map[Source]string{
	SourceExplicit: "explicit", SourceNotify: "notify", SourceTrace: "trace", SourceBindspace: "bindspace",
	SourceSnapshot: "snapshot", SourceConvention: "convention", SourceSweep: "sweep",
}

// String gives the source's name, part of the JSON interface.
func (s Source) String() string { return enumName(sourceNames, s) }

// MarshalText gives the source's name.
func (s Source) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText reads a source's name.
func (s *Source) UnmarshalText(text []byte) error {
	for source, name := range sourceNames {
		if name == string(text) {
			*s = source
			return nil
		}
	}
	return fmt.Errorf("%q is no source of claims", text)
}

func enumName[E ~int](names map[E]string, e E) string {
	if n, ok := names[e]; ok {
		return n
	}
	return fmt.Sprintf("invalid(%d)", int(e))
}

// Event tells what happened to an owner or to a claim.
type Event struct {
	Time  time.Time
	Kind  Kind
	Owner pidfd.Identity // for a claim that was handed on and has come to its end: the last holder
	Comm  string
	UID   uint32     // the owner's effective one when it was attached
	Exit  pidfd.Exit // of KindExited and KindOutcome: how the owner ended, as far as it is known yet

	Source Source      // of KindClaimed and KindOutcome
	Result reap.Result // of KindOutcome; of KindClaimed its Path alone
	// AfterExit is the time from the moment that the kernel reported the end of Owner to this outcome.
	AfterExit time.Duration
}

// Subscription receives Events.
type Subscription struct {
	w       *Watcher
	c       chan Event
	dropped atomic.Uint64
}

// Subscribe begins to receive Events, with room for buf of them that were not read yet. When it is full, Events are
// dropped and counted: the watcher waits for nobody.
func (w *Watcher) Subscribe(buf int) *Subscription {
	s := &Subscription{w: w, c: make(chan Event, buf)}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		close(s.c)
		return s
	}
	w.subs[s] = struct{}{}
	return s
}

// C is where the Events come. It is closed by Close, the Watcher's or the Subscription's.
func (s *Subscription) C() <-chan Event { return s.c }

// Dropped is how many Events were lost because nobody read.
func (s *Subscription) Dropped() uint64 { return s.dropped.Load() }

// Close ends the subscription and closes C. A second call does nothing.
func (s *Subscription) Close() {
	s.w.mu.Lock()
	defer s.w.mu.Unlock()
	if _, ok := s.w.subs[s]; ok {
		delete(s.w.subs, s)
		close(s.c)
	}
}

// emit gives e to every subscriber. The caller holds w.mu.
func (w *Watcher) emit(e Event) {
	for s := range w.subs {
		select {
		case s.c <- e:
		default:
			if s.dropped.Add(1) == 1 {
				w.log.Warn().Int("buffer", cap(s.c)).Msg("a subscriber does not read: events are dropped")
			}
		}
	}
}
