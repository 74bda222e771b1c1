package daemon

import (
	"sync"

	"github.com/sockwatch/sockwatch/watch"
)

// historyLength is how many outcomes are remembered.
const historyLength = 1000

// history remembers the latest outcomes.
type history struct {
	sub  *watch.Subscription
	done sync.WaitGroup

	mu     sync.Mutex
	events []watch.Event // a ring
	next   int
}

func newHistory(w *watch.Watcher) *history {
	h := &history{sub: w.Subscribe(16 << 10)}
	h.done.Go(func() {
		for e := range h.sub.C() {
			if e.Kind == watch.KindOutcome {
				h.add(e)
			}
		}
	})
	return h
}

func (h *history) add(e watch.Event) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.events) < historyLength {
		h.events = append(h.events, e)
		return
	}
	h.events[h.next] = e
	h.next = (h.next + 1) % historyLength
}

// list gives what is remembered and wanted, the oldest first.
func (h *history) list(want func(watch.Event) bool) []watch.Event {
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
