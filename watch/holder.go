package watch

import (
	"context"
	"maps"
	"os"
	"slices"

	"github.com/sockwatch/sockwatch/pidfd"
	"github.com/sockwatch/sockwatch/reap"
)

// holder is a process that has the sockets of claims open whose owner is dead. The claims are handed on to it.
type holder struct {
	w       *Watcher
	id      pidfd.Identity
	comm    string
	process *pidfd.Process
	token   uint64
	exit    pidfd.Exit
	claims  map[*Claim]struct{}
}

// holders finds and keeps holders. It belongs to the loop, but for what the search reads.
type holders struct {
	w          *Watcher
	ctx        context.Context
	cancel     context.CancelFunc
	byIdentity map[pidfd.Identity]*holder
	waiting    []*Claim // to be searched for
	searching  []*Claim // being searched for: the search reads their files
}

func (hs *holders) init(w *Watcher) {
	hs.w = w
	hs.ctx, hs.cancel = context.WithCancel(context.Background())
	hs.byIdentity = map[pidfd.Identity]*holder{}
}

// search looks for the holders of a claim's socket, together with those of all other claims that wait for it: one scan
// of /proc serves them all. It runs beside the loop, since a scan takes long on a machine with many processes.
func (w *Watcher) search(c *Claim) {
	if !slices.Contains(w.holders.waiting, c) {
		w.holders.waiting = append(w.holders.waiting, c)
	}
	w.searchNext()
}

func (w *Watcher) searchNext() {
	hs := &w.holders
	if len(hs.searching) > 0 || len(hs.waiting) == 0 {
		return
	}
	claims := hs.waiting
	hs.waiting = nil
	var files []*reap.File
	var replaced []*Claim
	w.mu.Lock()
	claims = slices.DeleteFunc(claims, func(c *Claim) bool {
		if c.state == armed && c.file == nil {
			replaced = append(replaced, c)
		}
		return c.state != armed || c.file == nil
	})
	for _, c := range claims {
		files = append(files, c.file)
		c.later.searched = true
	}
	w.mu.Unlock()
	for _, c := range replaced {
		w.replaced(c)
	}
	if len(claims) == 0 {
		return
	}
	hs.searching = claims
	w.loop.Go(func() {
		found, err := findHolders(hs.ctx, files)
		posted := w.post(func() {
			hs.searching = nil
			if err != nil {
				w.log.Warn().Err(err).Msg("look for the processes that hold a dead process's sockets")
			}
			for i, c := range claims {
				w.handOn(c, files[i], found, i)
			}
			found.closeUnused()
			w.searchNext()
		})
		if !posted {
			found.closeUnused()
		}
	})
}

// candidates are the processes that hold the sockets of some files.
type candidates struct {
	processes map[int]*pidfd.Process // by pid
	used      map[int]bool
	holders   [][]reap.Holder // by file
}

func (c *candidates) close() {
	for _, p := range c.processes {
		_ = p.Close()
	}
}

func (c *candidates) closeUnused() {
	for pid, p := range c.processes {
		if !c.used[pid] {
			_ = p.Close()
		}
	}
}

// stableScans bounds how often the set of holders is looked at: a fork between two scans makes one more.
const stableScans = 5

// findHolders finds the processes that hold the sockets of files. A pid that a scan gives may be another process's by
// the time it is opened; so scan again with the processes open, until nobody is new.
func findHolders(ctx context.Context, files []*reap.File) (*candidates, error) {
	found := &candidates{processes: map[int]*pidfd.Process{}, used: map[int]bool{}}
	for range stableScans {
		holders, err := reap.HoldersOf(ctx, files)
		if err != nil {
			found.holders = make([][]reap.Holder, len(files))
			return found, err
		}
		found.holders = holders
		pids := map[int]bool{}
		for _, h := range holders {
			for _, h := range h {
				pids[h.PID] = true
			}
		}
		stable := true
		for pid, p := range found.processes {
			if exited, err := p.Exited(); exited || err != nil || !pids[pid] {
				_ = p.Close()
				delete(found.processes, pid)
			}
		}
		for pid := range pids {
			if found.processes[pid] != nil {
				continue
			}
			stable = false
			if p, err := pidfd.Open(pid); err == nil { // else it is gone already: the next scan will not have it
				found.processes[pid] = p
			}
		}
		if stable {
			break
		}
	}
	return found, nil
}

// handOn gives a claim to the processes that hold the socket of its file f.
func (w *Watcher) handOn(c *Claim, f *reap.File, found *candidates, i int) {
	c.later.searched = false
	w.mu.Lock()
	if c.state != armed { // released, or settled by another exit, during the search
		if c.state != committed { // else the removal under another name discards it
			c.discard()
			w.settledIfDone(c.owner)
		}
		w.mu.Unlock()
		return
	}
	replaced, path := c.file != f, c.path
	w.mu.Unlock()
	if replaced {
		w.replaced(c)
		return
	}

	kept := reap.Result{Path: path, Outcome: reap.OutcomeAlive, Reason: reap.ReasonHolder}
	if len(found.holders[i]) == 0 {
		kept.Reason = reap.ReasonHolderNotVisible
	}
	if !c.later.final {
		for _, h := range found.holders[i] {
			w.addHolder(c, h, found)
		}
	}
	if len(c.later.holders) == 0 {
		w.keep(c, kept)
		return
	}
	w.outcome(c, kept)
	w.mu.Lock()
	w.unseen.remove(c)
	w.settledIfDone(c.owner)
	w.mu.Unlock()
}

// addHolder makes a process that holds the claim's socket responsible for it.
func (w *Watcher) addHolder(c *Claim, info reap.Holder, found *candidates) {
	p := found.processes[info.PID]
	if p == nil || info.PID == os.Getpid() { // our own end is nothing to wait for
		return
	}
	id, err := p.Identity()
	if err != nil {
		return
	}
	h := w.holders.byIdentity[id]
	if h == nil {
		h = &holder{w: w, id: id, comm: info.Comm, process: p, claims: map[*Claim]struct{}{}}
		w.mu.Lock()
		h.token, err = w.watchTarget(p.Fd(), h)
		w.mu.Unlock()
		if err != nil {
			w.log.Warn().Err(limit(err)).Stringer("process", id).Msg("watch the holder of a dead process's socket")
			return
		}
		found.used[info.PID] = true
		w.holders.byIdentity[id] = h
	}
	h.claims[c] = struct{}{}
	c.later.holders = append(c.later.holders, h)
}

// ready is called by the loop when the holder has ended: its claims are settled now, or handed on once more.
func (h *holder) ready(bool) {
	at := now()
	h.exit = h.process.Exit()
	claims := slices.Collect(maps.Keys(h.claims))
	h.w.mu.Lock()
	for _, c := range claims {
		h.w.holders.drop(c)
		c.later.lastHolder = h
	}
	h.w.mu.Unlock()
	for _, c := range claims {
		h.w.settle(c.owner, []*Claim{c}, at)
	}
	if len(claims) > 0 {
		h.w.retryUnseen(claims[0].owner)
	}
}

// drop ends the responsibility of all holders for a claim, and gives up those that have no other. The caller holds w.mu.
func (hs *holders) drop(c *Claim) {
	if c.later == nil {
		return
	}
	for _, h := range c.later.holders {
		delete(h.claims, c)
		if len(h.claims) == 0 && hs.byIdentity[h.id] == h {
			delete(hs.byIdentity, h.id)
			hs.w.unwatchTarget(h.process.Fd(), h.token)
			_ = h.process.Close()
		}
	}
	c.later.holders = nil
}
