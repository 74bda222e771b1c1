package varlink

import "sync"

// unread counts the bytes of replies that wait for one user, on all of his connections. Safe for concurrent use.
type unread struct {
	limit int

	mu    sync.Mutex
	bytes int
}

// add counts a message, if there is room left before it.
func (u *unread) add(n int) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.bytes >= u.limit {
		return false
	}
	u.bytes += n
	return true
}

func (u *unread) sub(n int) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.bytes -= n
}
