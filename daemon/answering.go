package daemon

import (
	"errors"
	"sync"
	"time"

	"github.com/sockwatch/sockwatch/reap"
)

// answering opens what is reported, one after the other, and does not wait for a filesystem that does not answer: any user can make one,
// and a process that waits for it cannot be interrupted. Each file is opened by a goroutine of its own. One that is not done within
// the user's patience is left to its fate, and until that has come nothing more is opened for him. The zero value is ready. open is for one
// goroutine.
type answering struct {
	mu    sync.Mutex
	users map[uint32]*waited
	stuck int // how many are left to their fate
}

// waited is how long others were kept waiting for a user.
type waited struct {
	stuck bool
	since time.Time // of the period
	spent time.Duration
}

const (
	waitPeriod   = time.Minute
	mostWaited   = 10 * time.Second       // in a period, for one user
	alwaysWaited = 100 * time.Millisecond // for each file, and not counted
	mostStuck    = 64                     // each has a thread
)

var errNoAnswer = errors.New("its filesystem does not answer")

// open runs f, which opens a file for a user. errNoAnswer: it was not run, or its file is closed when it has one after all.
func (a *answering) open(uid uint32, f func() (*reap.File, error)) (*reap.File, error) {
	patience, err := a.patience(uid)
	if err != nil {
		return nil, err
	}
	type opened struct {
		file *reap.File
		err  error
	}
	done := make(chan opened, 1)
	began := time.Now()
	go func() {
		file, err := f()
		done <- opened{file, err}
	}()
	late := time.NewTimer(patience)
	defer late.Stop()
	select {
	case o := <-done:
		a.spend(uid, time.Since(began)-alwaysWaited)
		return o.file, o.err
	case <-late.C:
	}
	a.spend(uid, patience-alwaysWaited)
	a.setStuck(uid, true)
	go func() {
		if o := <-done; o.file != nil {
			_ = o.file.Close()
		}
		a.setStuck(uid, false)
	}()
	return nil, errNoAnswer
}

// patience is how long a user may keep the others waiting now.
func (a *answering) patience(uid uint32) (time.Duration, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	w := a.users[uid]
	switch {
	case w != nil && w.stuck, a.stuck >= mostStuck:
		return 0, errNoAnswer
	case w == nil:
		return mostWaited, nil
	case time.Since(w.since) >= waitPeriod:
		delete(a.users, uid)
		return mostWaited, nil
	}
	return max(mostWaited-w.spent, 0) + alwaysWaited, nil
}

// spend counts the time for which a user has kept the others waiting.
func (a *answering) spend(uid uint32, d time.Duration) {
	if d <= 0 {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.of(uid).spent += d
}

func (a *answering) setStuck(uid uint32, stuck bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.of(uid).stuck = stuck
	if stuck {
		a.stuck++
	} else {
		a.stuck--
	}
}

// of gives what is known of a user. Who has kept nobody waiting for long is forgotten. The caller holds a.mu.
func (a *answering) of(uid uint32) *waited {
	if w := a.users[uid]; w != nil {
		return w
	}
	for other, w := range a.users {
		if !w.stuck && time.Since(w.since) >= waitPeriod {
			delete(a.users, other)
		}
	}
	if a.users == nil {
		a.users = map[uint32]*waited{}
	}
	w := &waited{since: time.Now()}
	a.users[uid] = w
	return w
}
