package varlink

import (
	"sync"
	"time"
)

// PerUser bounds how much one user can have us say, such as into a log, without keeping it from being said of others. The zero value is
// ready. Safe for concurrent use.
type PerUser struct {
	mu    sync.Mutex
	since time.Time
	said  map[uint32]int
	left  int
}

// A user can have so much said in a period.
const (
	mostSaid   = 100
	saidPeriod = 10 * time.Second
)

// Say tells whether something more about a user may be said. leftOut, when it is not 0, is how much of all users was left out in an
// earlier period and is to be told now.
func (p *PerUser) Say(uid uint32) (ok bool, leftOut int) { return p.sayAt(uid, time.Now()) }

func (p *PerUser) sayAt(uid uint32, now time.Time) (ok bool, leftOut int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.said == nil || now.Sub(p.since) >= saidPeriod {
		p.since, p.said = now, map[uint32]int{}
		leftOut, p.left = p.left, 0
	}
	if p.said[uid] >= mostSaid {
		p.left++
		return false, leftOut
	}
	p.said[uid]++
	return true, leftOut
}
