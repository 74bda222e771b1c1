package watch

import (
	"github.com/sockwatch/sockwatch/reap"
)

// elsewhere looks for files that have not, or not only, the names by which they were claimed: for other names in their directories. Who
// fills a directory makes that take long, so it is done beside the loop, by one goroutine at a time: one listing serves all claims of a user
// in a directory, and users take turns. It belongs to the loop.
type elsewhere struct {
	users   turns[uint32]
	dirs    map[uint32][]reap.Directory // of each user, in the order in which they came
	waiting map[userDir][]search
	busy    []search
	read    map[*reap.File]*reading
}

type userDir struct {
	uid uint32
	dir reap.Directory
}

// search is for the other names of a claim's file.
type search struct {
	claim *Claim
	what  reap.Unfinished
	then  func(r reap.Result) // called by the loop
}

// reading is of a file that is, or is about to be, read by the search.
type reading struct {
	searches int
	closed   bool // nobody else wants it any more
}

// removeElsewhere finishes an attempt to remove a claim's file whose result r says Elsewhere, and then does the rest. Until then there is no
// other attempt. The loop calls it.
func (w *Watcher) removeElsewhere(c *Claim, r reap.Result, then func(r reap.Result)) {
	w.mu.Lock()
	f, at, moved := c.file, c.at, r.Outcome != reap.OutcomeRemoved // else it had its own name, too
	c.wait().elsewhere = true
	w.mu.Unlock()
	options := func(name string) reap.RemoveOptions {
		w.mu.Lock()
		defer w.mu.Unlock()
		if reap.IsPrivate(name) { // a removal is at it, or was killed there: no name that anybody gave it
			return c.options(w.decideAt(c, at))
		}
		if moved && c.file == f && c.state == armed { // else it was removed under another of its names
			c.moved(name)
			return c.options(c.action)
		}
		return c.options(w.decideAt(c, beside(at, name)))
	}
	w.lookElsewhere(c, reap.Unfinished{File: f, Options: options, Result: r}, func(r reap.Result) {
		w.mu.Lock()
		c.later.elsewhere = false
		same, ignored := c.file == f, c.action == ActionIgnore && c.state == armed
		if c.state == committed && (r.Outcome != reap.OutcomeRemoved || !same) {
			c.state = armed
		}
		r.Path = c.path
		w.mu.Unlock()
		switch {
		case same && ignored:
			c.ignore()
		case same:
			then(r)
		default:
			w.replaced(c)
		}
		w.mu.Lock()
		w.settledIfDone(c.owner)
		w.mu.Unlock()
	})
}

// lookElsewhere has the other names of a claim's file looked for.
func (w *Watcher) lookElsewhere(c *Claim, what reap.Unfinished, then func(r reap.Result)) {
	e := &w.elsewhere
	if e.read == nil {
		e.dirs, e.waiting, e.read = map[uint32][]reap.Directory{}, map[userDir][]search{}, map[*reap.File]*reading{}
	}
	w.mu.Lock()
	uid := c.owner.uid
	w.mu.Unlock()
	key := userDir{uid, what.File.Directory()}
	if len(e.waiting[key]) == 0 {
		e.dirs[uid] = append(e.dirs[uid], key.dir)
		e.users.add(uid)
	}
	e.waiting[key] = append(e.waiting[key], search{c, what, then})
	if e.read[what.File] == nil {
		e.read[what.File] = &reading{}
	}
	e.read[what.File].searches++
	w.nextElsewhere()
}

// nextElsewhere looks in the next directory.
func (w *Watcher) nextElsewhere() {
	e := &w.elsewhere
	w.mu.Lock()
	closed := w.closed
	w.mu.Unlock()
	if closed || len(e.busy) > 0 || len(e.users.items) == 0 {
		return
	}
	uid := e.users.take(1)[0]
	key := userDir{uid, e.dirs[uid][0]}
	if e.dirs[uid] = e.dirs[uid][1:]; len(e.dirs[uid]) == 0 {
		delete(e.dirs, uid)
		e.users.remove(uid)
	}
	e.busy = e.waiting[key]
	delete(e.waiting, key)
	what := make([]reap.Unfinished, len(e.busy))
	for i, s := range e.busy {
		what[i] = s.what
	}
	w.loop.Go(func() {
		results := reap.RemoveElsewhere(what)
		w.post(func() {
			found := e.busy
			e.busy = nil
			for i, s := range found {
				e.finished(s.what.File)
				s.then(results[i])
			}
			w.nextElsewhere()
		})
	})
}

// finished notes the end of a search.
func (e *elsewhere) finished(f *reap.File) {
	r := e.read[f]
	if r.searches--; r.searches > 0 {
		return
	}
	delete(e.read, f)
	if r.closed {
		_ = f.Close()
	}
}

// close closes a file, or has it closed when the search does not read it any more. The caller is the loop, or the loop has ended.
func (e *elsewhere) close(f *reap.File) {
	if r := e.read[f]; r != nil {
		r.closed = true
		return
	}
	_ = f.Close()
}

// end gives up what is still to be looked for, once the loop has ended.
func (e *elsewhere) end() {
	for f, r := range e.read {
		if r.closed {
			_ = f.Close()
		}
	}
	*e = elsewhere{}
}

// quiet tells whether nothing is being looked for.
func (e *elsewhere) quiet() bool { return len(e.read) == 0 }
