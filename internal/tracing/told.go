package tracing

import (
	"sync"

	"github.com/sockwatch/sockwatch/ebpf"
)

// told knows of which binds was told, where there are two who may: of one that is found as what was lost is looked for, the event may not
// have been lost, but not been read yet. The zero value is ready.
type told struct {
	mu       sync.Mutex
	scanning bool
	sockets  map[uint64]struct{} // by inode number: from the beginning of a scan to that of the next
}

func (t *told) scanBegins() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.scanning, t.sockets = true, map[uint64]struct{}{}
}

func (t *told) scanEnds() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.scanning = false
}

// first notes a bind, and tells whether that is news.
func (t *told) first(e ebpf.Event) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if _, known := t.sockets[e.Socket]; known {
		delete(t.sockets, e.Socket) // each of the two comes once
		return false
	}
	if t.scanning {
		t.sockets[e.Socket] = struct{}{}
	}
	return true
}
