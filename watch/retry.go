package watch

import (
	"container/heap"
	"slices"
	"time"

	"github.com/sockwatch/sockwatch/reap"
)

// later is what a claim needs whose socket outlives its owner. It belongs to the loop; what is said to be for others is written with w.mu
// held.
type later struct {
	final    bool      // never handed on: the file was not known while the owner lived; for others, too
	since    time.Time // when the owner, or the last holder, ended
	step     int       // on the ladder, and from its end on the number of back-offs
	due      time.Time
	place    int  // in the queue, from 1; 0 when it is not queued
	searched bool // the search for holders reads its file

	elsewhere bool // its file is being removed under other names

	holders    []*holder
	lastHolder *holder
}

// wait gives what the claim needs while it waits. The caller is the loop and holds w.mu: others look whether a claim waits.
func (c *Claim) wait() *later {
	if c.later == nil {
		c.later = &later{}
	}
	return c.later
}

// replaced is for a claim that has another file, or none, than that with which it waited. The loop calls it.
func (w *Watcher) replaced(c *Claim) {
	c.renew()
	w.mu.Lock()
	due := c.state == armed && c.owner.phase > ending
	w.mu.Unlock()
	if due {
		w.settle(c.owner, []*Claim{c}, c.owner.itsEnd().at)
	}
}

// renew has a claim wait for nothing but its owner's end, of which not everything is known yet. The loop calls it.
func (c *Claim) renew() {
	w := c.owner.w
	w.mu.Lock()
	defer w.mu.Unlock()
	if c.later == nil || c.owner.phase > ending {
		return
	}
	w.retries.remove(c)
	w.unseen.remove(c)
	w.holders.drop(c)
	w.holders.waiting = slices.DeleteFunc(w.holders.waiting, func(other *Claim) bool { return other == c })
	if !c.later.searched && !c.later.elsewhere {
		c.later = nil
	}
	if c.state == armed && c.result != nil { // that is of the other file
		c.result = nil
		c.owner.open++
	}
}

// A claim that lives and that nobody visible holds is probed again with back-off, as what could not be looked at is looked at.
const (
	backoffFirst = time.Second
	backoffLast  = time.Minute
	backoffSteps = 6 // from the first to the last
)

// backoff is how long to wait before something is tried once more that failed.
func backoff(step int) time.Duration { return min(backoffFirst<<min(step, backoffSteps), backoffLast) }

// retryQueue is a heap of claims, by when they are due.
type retryQueue []*Claim

func (q retryQueue) Len() int           { return len(q) }
func (q retryQueue) Less(i, j int) bool { return q[i].later.due.Before(q[j].later.due) }
func (q retryQueue) Swap(i, j int) {
	q[i], q[j] = q[j], q[i]
	q[i].later.place, q[j].later.place = i+1, j+1
}

// Push and Pop are for package heap.
func (q *retryQueue) Push(x any) {
	c := x.(*Claim)
	*q = append(*q, c)
	c.later.place = len(*q)
}

// Pop is Push's counterpart.
func (q *retryQueue) Pop() any {
	last := len(*q) - 1
	c := (*q)[last]
	(*q)[last] = nil
	*q = (*q)[:last]
	c.later.place = 0
	return c
}

// push queues a claim for its next step.
func (q *retryQueue) push(c *Claim) {
	l := c.later
	if l.place > 0 {
		return
	}
	if l.step < len(reap.Ladder) {
		l.due = l.since.Add(reap.Ladder[l.step])
	} else {
		l.due = now().Add(backoff(l.step - len(reap.Ladder)))
	}
	l.step++
	heap.Push(q, c)
}

// remove takes a claim out of the queue, if it is there.
func (q *retryQueue) remove(c *Claim) {
	if c.later != nil && c.later.place > 0 {
		heap.Remove(q, c.later.place-1)
	}
}

// timeout is how long epoll may wait, in milliseconds: -1 is for ever.
func (q *retryQueue) timeout() int {
	if len(*q) == 0 {
		return -1
	}
	wait := time.Until((*q)[0].later.due)
	return int(max(0, (wait+time.Millisecond-1)/time.Millisecond))
}

// retryDue tries again what is due.
func (w *Watcher) retryDue(t time.Time) {
	for len(w.retries) > 0 && !w.retries[0].later.due.After(t) {
		w.retry(heap.Pop(&w.retries).(*Claim))
	}
}

// retry tries once more to remove a file that was alive.
func (w *Watcher) retry(c *Claim) {
	r := w.attempt(c)
	w.retried(c, r)
}

func (w *Watcher) retried(c *Claim, r reap.Result) {
	if r.Elsewhere {
		w.removeElsewhere(c, r, func(r reap.Result) { w.retried(c, r) })
		return
	}
	if r.Outcome != reap.OutcomeAlive && !transient(r) {
		w.conclude(c, r, c.later.since)
		w.mu.Lock()
		w.settledIfDone(c.owner)
		w.mu.Unlock()
		return
	}
	if c.later.step < len(reap.Ladder) {
		w.retries.push(c)
		return
	}
	if r.Outcome == reap.OutcomeAlive {
		w.search(c)
		return
	}
	w.keep(c, r)
}

// keep records that a claim is kept and nobody can be watched whose end would settle it.
func (w *Watcher) keep(c *Claim, r reap.Result) {
	w.outcome(c, r)
	w.mu.Lock()
	switch {
	case c.state != armed: // released meanwhile
	case c.later.final && r.Outcome == reap.OutcomeAlive:
		c.state = ended
		c.discard()
	default:
		w.unseen.add(c)
		w.retries.push(c)
	}
	w.settledIfDone(c.owner)
	w.mu.Unlock()
}

// retryUnseen looks again, after the exit of an owner or of who held the sockets of one, at what nobody visible holds: it may have been
// that process.
func (w *Watcher) retryUnseen(o *Owner) {
	w.mu.Lock()
	due := w.unseen.due(o)
	w.mu.Unlock()
	w.retryAll(due)
}

func (w *Watcher) retryAll(claims []*Claim) {
	for _, c := range claims {
		r := w.attempt(c)
		w.retriedUnseen(c, r)
	}
}

func (w *Watcher) retriedUnseen(c *Claim, r reap.Result) {
	switch {
	case r.Elsewhere:
		w.removeElsewhere(c, r, func(r reap.Result) {
			w.retriedUnseen(c, r)
			w.mu.Lock()
			defer w.mu.Unlock()
			if c.state == armed && len(c.later.holders) == 0 { // its own turn may have come meanwhile, in vain
				w.retries.push(c)
			}
		})
	case r.Outcome != reap.OutcomeAlive && !transient(r):
		w.conclude(c, r, c.later.since)
		w.mu.Lock()
		w.settledIfDone(c.owner)
		w.mu.Unlock()
	}
}
