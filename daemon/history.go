package daemon

import (
	"sync"

	"github.com/sockwatch/sockwatch/watch"
)

// historyLength is how many outcomes are remembered.
const historyLength = 1000

// history remembers the latest outcomes.
type history struct {
	sub   *watch.Subscription
	flush chan chan struct{} // from those who want to know that all that has happened by now is remembered
	ended chan struct{}      // closed when nothing more is
	done  sync.WaitGroup

	mu     sync.Mutex
	events []watch.Event // a ring
	next   int
}

func newHistory(w *watch.Watcher) *history {
	h := &history{sub: w.Subscribe(16 << 10), flush: make(chan chan struct{}), ended: make(chan struct{})}
	h.done.Go(h.run)
	return h
}

func (h *history) run() {
	for {
		select {
		case e, ok := <-h.sub.C():
			if !ok {
				close(h.ended)
				return
			}
			h.take(e)
		case done := <-h.flush:
			// Nothing is in our hand now, and what is still to be read was there before we were asked.
			for range len(h.sub.C()) {
				if e, ok := <-h.sub.C(); ok {
					h.take(e)
				}
			}
			close(done)
		}
	}
}

// catchUp waits until all that has happened by now is remembered: events are told beside it, and who is told of what happens from some
// moment on finds here what was before.
func (h *history) catchUp() {
	done := make(chan struct{})
	select {
	case h.flush <- done:
		<-done
	case <-h.ended:
	}
}

func (h *history) take(e watch.Event) {
	h.mu.Lock()
	defer h.mu.Unlock()
	switch e.Kind {
	case watch.KindOutcome:
		h.add(e)
	case watch.KindExited: // of one that was no child of ours it is known late how it ended: when its parent has reaped it
		for i := range h.events {
			if known := &h.events[i]; known.Owner == e.Owner && known.Owner.BootID != "" {
				known.Exit = e.Exit
			}
		}
	default:
	}
}

// add remembers an outcome. The caller holds h.mu.
func (h *history) add(e watch.Event) {
	if len(h.events) < historyLength {
		h.events = append(h.events, e)
		return
	}
	h.events[h.next] = e
	h.next = (h.next + 1) % historyLength
}

// list gives what is remembered and wanted, the oldest first.
func (h *history) list(want func(watch.Event) bool) []watch.Event {
	h.catchUp()
	h.mu.Lock()
	defer h.mu.Unlock()
	var events []watch.Event
	for i := range h.events {
		if e := h.events[(h.next+i)%len(h.events)]; want(e) {
			events = append(events, e)
		}
	}
	return events
}

func (h *history) close() {
	h.sub.Close()
	h.done.Wait()
}
