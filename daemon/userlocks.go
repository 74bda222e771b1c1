package daemon

import "sync"

// userLocks are locks of which each user has one: what he does by himself waits for nothing but himself, whatever his files are on. The
// zero value is ready.
type userLocks struct {
	mu    sync.Mutex
	locks map[uint32]*userLock
}

type userLock struct {
	sync.Mutex
	users int // who hold it or wait for it; the last one drops it. Guarded by userLocks.mu
}

// lock waits for a user's lock, and gives what unlocks it.
func (l *userLocks) lock(uid uint32) (unlock func()) {
	l.mu.Lock()
	own := l.locks[uid]
	if own == nil {
		own = &userLock{}
		if l.locks == nil {
			l.locks = map[uint32]*userLock{}
		}
		l.locks[uid] = own
	}
	own.users++
	l.mu.Unlock()
	own.Lock()
	return func() {
		own.Unlock()
		l.mu.Lock()
		defer l.mu.Unlock()
		if own.users--; own.users == 0 {
			delete(l.locks, uid)
		}
	}
}
