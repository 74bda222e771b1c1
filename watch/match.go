package watch

import (
	"cmp"
	"errors"
	"io/fs"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sockwatch/sockwatch/pidfd"
	"github.com/sockwatch/sockwatch/reap"
)

const (
	matchMost     = 256  // files that are matched together: each may hold a descriptor
	unmatchedMost = 4096 // paths that are remembered of one owner
)

// sighting is a sock-file that was seen under a name: that of a claim, or any in a bindspace.
type sighting struct {
	path   string
	file   *reap.File // nil until it is opened
	state  reap.State
	place  *place
	claim  *Claim         // on this path; nil: it is about the bindspace
	owners []*Owner       // of the bindspace
	maker  *pidfd.Process // who made the name, where that is known
	pid    int            // its number, also when it is gone; 0 when it is not known
	old    bool           // it may have been there before its owners
}

func (s *sighting) close() { _ = s.file.Close() }

// match finds out who bound each of some sock-files, and claims it for that one: for the process that made it, as the kernel
// tells; else for one that has the socket open, the owners first, then others of their trees, then others of the same user.
func (w *Watcher) match(seen []sighting) {
	var live, lost []*sighting
	for i := range seen {
		s := &seen[i]
		if !w.openFile(s) {
			continue
		}
		switch {
		case w.known(s):
		case s.maker != nil && w.assign(s, s.maker): // false: it is gone, and only the socket can tell any more
		case s.state == reap.StateDead:
			lost = append(lost, s)
		default:
			live = append(live, s)
		}
	}
	// The dead first: whose the living are may take a look at every process of the machine.
	w.settleMatch(lost, nil)
	w.settleMatch(w.matchHolders(live))
}

// settleMatch finds out whose those are that have died, and those whose holder is not to be seen.
func (w *Watcher) settleMatch(lost, unseen []*sighting) {
	if len(lost)+len(unseen) == 0 {
		return
	}
	heirs := heirs{w: w}
	for _, s := range lost {
		switch {
		case s.claim != nil:
			if o := heirs.of(s); o != nil && heirs.isDying(o) {
				w.setFile(s.claim, s.file, evidenceTold)
			} else {
				s.close() // what an earlier life left behind, and the owner is about to replace: still pending
			}
		default:
			w.bequeath(s, heirs.of(s))
		}
	}
	for _, s := range unseen {
		switch {
		case s.claim == nil:
			w.bequeath(s, heirs.of(s))
		case heirs.isDying(s.claim.owner) && heirs.of(s) != nil: // descriptors go before their sockets
			w.setFile(s.claim, s.file, evidenceTold)
		default:
			w.believe(s)
		}
	}
}

// openFile opens and probes the file of a sighting. It tells whether there is one.
func (w *Watcher) openFile(s *sighting) bool {
	if s.file == nil {
		open := reap.Open
		if s.claim != nil {
			open = s.claim.owner.openFile
		}
		f, err := open(s.path)
		if err != nil { // gone again, or not a sock-file
			w.again(s, err)
			return false
		}
		s.file = f
	}
	s.state, _ = s.file.Probe()
	return true
}

// again has a sighting looked at once more later, when the error that there was says nothing of it.
func (w *Watcher) again(s *sighting, err error) {
	switch {
	case failing(err):
		w.log.Warn().Err(err).Str("path", s.path).Msg("look at a new sock-file; it is looked at again later")
		w.remember(s.path, s.interested())
	case !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, reap.ErrNotSocket):
		w.log.Debug().Err(err).Str("path", s.path).Msg("a new sock-file is not claimed")
	}
}

// interested are the owners that a sighting is about.
func (s *sighting) interested() []*Owner {
	if s.claim != nil {
		return []*Owner{s.claim.owner}
	}
	return s.owners
}

// known tells whether there is nothing to find out, and notes what the sighting adds to what is known. Then it takes s.file over.
func (w *Watcher) known(s *sighting) bool {
	if c := s.claim; c != nil {
		w.mu.Lock()
		wanted := c.state == armed && c.owner.phase <= ending && !c.is(s.file.ID())
		w.mu.Unlock()
		if !wanted {
			s.close()
		}
		return !wanted
	}
	w.mu.Lock()
	c := w.files[s.file.ID()]
	if c == nil || c.state != armed || c.evidence != evidenceSeen {
		w.mu.Unlock()
		return false
	}
	c.strengthen(SourceBindspace)
	w.mu.Unlock()
	w.alsoNamed(c, s)
	return true
}

// alsoNamed notes that a claim's file was seen under the name of a sighting: linked, or moved. It is known by the name that it got last. It
// takes s.file over.
func (w *Watcher) alsoNamed(c *Claim, s *sighting) {
	path := c.Path()
	if path == s.path || base(path) == base(s.path) && leadsTo(path, s.file) { // by way of another path to its directory
		s.close()
		return
	}
	at := w.where(s.file)
	w.mu.Lock()
	defer w.mu.Unlock()
	if c.named || c.path != path || c.state != armed || c.owner.phase != watching || !c.is(s.file.ID()) {
		s.close()
		return
	}
	s.file.UseRightsOf(c.file) // another name lends it no other rights
	c.rename(s.file, at, s.place)
}

// leadsTo tells whether a path leads to a file.
func leadsTo(path string, f *reap.File) bool {
	named, err := reap.Open(path)
	if err != nil {
		return false
	}
	defer named.Close()
	return named.ID() == f.ID()
}

// matchHolders claims each of some sock-files for a process that has its socket open. It returns those that have died meanwhile, and
// those whose holder is not to be seen.
func (w *Watcher) matchHolders(live []*sighting) (dead, unseen []*sighting) {
	live, doubt := w.matchOwners(live)
	for round := 0; len(live) > 0; round++ {
		var again []*sighting
		found, err := findHolders(w.holders.ctx, filesOf(live))
		if err != nil {
			w.log.Warn().Err(err).Msg("look for the process of a new sock-file")
			doubt = true
		}
		for i, s := range live {
			if w.assignHolder(s, found, i) {
				continue
			}
			s.state, _ = s.file.Probe()
			switch {
			case s.state == reap.StateDead:
				dead = append(dead, s)
			case len(found.holders[i]) > 0 && round < stableScans: // they have gone, and may have left it to others
				again = append(again, s)
			case doubt && s.claim == nil:
				w.remember(s.path, s.owners)
				s.close()
			default:
				unseen = append(unseen, s)
			}
		}
		found.close()
		live = again
	}
	return dead, unseen
}

func filesOf(sightings []*sighting) []*reap.File {
	files := make([]*reap.File, len(sightings))
	for i, s := range sightings {
		files[i] = s.file
	}
	return files
}

// matchOwners claims what an owner itself has open: to ask these is quicker than to look at every process of the machine. It
// returns the others, and whether they may be an owner's after all.
func (w *Watcher) matchOwners(live []*sighting) (others []*sighting, doubt bool) {
	var owners []*Owner
	var processes []*pidfd.Process
	added := map[*Owner]bool{}
	w.mu.Lock()
	for _, s := range live {
		for _, o := range slices.Backward(s.interested()) { // the youngest first: it is the most likely to bind something new
			if !added[o] && o.phase == watching && !o.everyone {
				added[o] = true
				owners, processes = append(owners, o), append(processes, o.process)
			}
		}
	}
	w.mu.Unlock()
	whose, err := reap.Whose(filesOf(live), processes)
	if err != nil {
		w.log.Warn().Err(err).Msg("look for the owner of a new sock-file; it is looked for again at the owners' end")
	}
	for i, s := range live {
		if n := whose[i]; n < 0 || !w.assign(s, processes[n]) {
			others = append(others, s)
		}
	}
	return others, err != nil
}

// assignHolder claims a sock-file for one of those that have its socket open: one of the tree, or else of the same user. It tells whether
// there is anybody.
func (w *Watcher) assignHolder(s *sighting, found *candidates, i int) bool {
	type holder struct {
		process *pidfd.Process
		kin     bool
	}
	var holders []holder
	for _, h := range found.holders[i] {
		if p := found.processes[h.PID]; p != nil {
			id, err := p.Identity()
			if err != nil {
				continue
			}
			_, kin, _ := w.rootOf(p, id, s.interested())
			holders = append(holders, holder{p, kin})
		}
	}
	slices.SortStableFunc(holders, func(a, b holder) int {
		return cmp.Compare(btoi(b.kin), btoi(a.kin))
	})
	for _, h := range holders {
		if w.assign(s, h.process) {
			return true
		}
	}
	return false
}

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}

// assign claims a sock-file for the process that made it or has it open, when that is one of an owner's tree or of its user, and
// takes s.file over. It returns false, with nothing done, when nothing can be found out about the process any more.
func (w *Watcher) assign(s *sighting, p *pidfd.Process) bool {
	id, err := p.Identity()
	if err != nil {
		return false
	}
	root, kin, err := w.rootOf(p, id, s.interested())
	switch {
	case err != nil:
		return false
	case s.claim != nil && !kin:
		w.believe(s) // the caller has said so
		return true
	case root == nil, s.old && !kin && !root.everyone && !madeSince(s.file, root):
		w.rememberEarly(s)
		s.close()
		return true
	}
	o, err := w.ownerOf(id, root, kin)
	if errors.Is(err, pidfd.ErrExited) {
		return false
	}
	if errors.Is(err, ErrReleased) || s.claim == nil && !s.openFor(root) {
		s.close()
		return true
	}
	switch {
	case err == nil:
		w.take(s, o)
	case root.everyone: // it has no end, and nor would the claim
		w.log.Warn().Err(err).Str("path", s.path).Msg("watch the process that made a sock-file; it is looked for again")
		w.claimOfGone(s)
	default:
		w.log.Warn().Err(err).Str("path", s.path).Msg("watch the process that made a sock-file; the file is claimed for its tree")
		w.take(s, root)
	}
	return true
}

// openFor opens the file of a sighting in a bindspace anew, as it is opened for the owner on whose account it is claimed, and tells
// whether that may be, and can.
func (s *sighting) openFor(o *Owner) bool {
	if o.opener == nil {
		return true
	}
	f, err := o.opener(s.path)
	if err != nil {
		o.w.again(s, err)
		return false
	}
	if f.ID() != s.file.ID() {
		_ = f.Close()
		return false
	}
	_, _ = f.Probe()
	s.close()
	s.file = f
	return true
}

// madeSince tells whether a sock-file was made since an owner was there.
func madeSince(f *reap.File, o *Owner) bool {
	born, err := f.Born()
	return err == nil && !born.Before(o.since)
}

// take claims a sock-file for the process that was seen to have bound it.
func (w *Watcher) take(s *sighting, o *Owner) {
	source := SourceBindspace
	if s.claim != nil {
		source = s.claim.Source()
		if o == s.claim.owner {
			w.setFile(s.claim, s.file, evidenceSeen)
			return
		}
		// The name is the caller's word for whatever is bound there; its claim waits for the next one.
		w.mu.Lock()
		over := s.claim.state == withdrawn
		s.claim.giveWay()
		w.mu.Unlock()
		if over {
			s.close()
			return
		}
	}
	w.claimSeen(s, o, source, evidenceSeen)
}

// believe takes what has the name of a claim for its file, though nobody of the owner's tree was seen to have bound it: the caller said
// that it would. Only the owner's own replaces what it had there before.
func (w *Watcher) believe(s *sighting) {
	at := w.where(s.file)
	w.mu.Lock()
	pending := s.claim.file == nil
	if pending && s.state == reap.StateAlive {
		s.claim.accept(s.file, at, evidenceTold)
		w.mu.Unlock()
		return
	}
	w.mu.Unlock()
	if !pending {
		w.rememberEarly(s)
	}
	s.close()
}

// setFile identifies a claim, or replaces its file. It takes f over.
func (w *Watcher) setFile(c *Claim, f *reap.File, e evidence) {
	at := w.where(f)
	w.mu.Lock()
	defer w.mu.Unlock()
	c.accept(f, at, e)
}

// accept is setFile for who holds w.mu; at is where f is.
func (c *Claim) accept(f *reap.File, at string, e evidence) {
	if c.state != armed || c.owner.phase > ending || c.owner.yields(c, f, e) {
		_ = f.Close()
		return
	}
	old := c.file
	c.evidence = max(c.evidence, e)
	c.owner.setFile(c, f, at)
	if old != nil {
		c.owner.closeFile(old)
	}
}

// claimSeen claims the file of a sighting in a bindspace. Its claim ends with its name.
func (w *Watcher) claimSeen(s *sighting, o *Owner, source Source, e evidence) {
	c, isNew, err := o.claimFile(s.file, source, e)
	if err != nil {
		s.close()
		return
	}
	if !isNew { // by another name, it may be
		if f, err := reap.Open(s.path); err == nil {
			s.file = f
			w.alsoNamed(c, s)
		}
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if c.state == armed && c.place == nil && w.places[s.place.dir] == s.place && !w.closed {
		s.place.dir.Retain()
		s.place.refs++
		s.place.expect(c)
	}
}

// claimOfGone claims the sock-file of a process that is gone, or cannot be watched: it is removed at once if it is dead, and goes to who
// holds its socket if it is not.
func (w *Watcher) claimOfGone(s *sighting) {
	w.mu.Lock()
	o := w.byPID[s.pid] // its end may not have been told yet
	w.mu.Unlock()
	if o == nil {
		var err error
		if o, err = w.addDead(pidfd.Identity{PID: s.pid}, s.file.UID(), nil); err != nil {
			s.close()
			return
		}
	}
	w.claimSeen(s, o, SourceBindspace, evidenceSeen)
}

// bequeath claims a sock-file whose maker is not known, or gone, for an heir; what a process made that is gone is settled at once. Without an
// heir it is remembered for owners that have no process yet.
func (w *Watcher) bequeath(s *sighting, heir *Owner) {
	if heir == nil {
		w.rememberEarly(s)
		s.close()
		return
	}
	switch {
	case heir.everyone && s.old && !heir.sweeps && !madeSince(s.file, heir), !s.openFor(heir):
		s.close()
	case heir.everyone, s.pid > 0 && s.state == reap.StateDead:
		w.claimOfGone(s)
	default:
		w.claimSeen(s, heir, SourceBindspace, evidenceTold)
	}
}

// remember keeps the path of a sock-file that cannot be matched with its owner yet.
func (w *Watcher) remember(path string, owners []*Owner) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, o := range owners {
		if o.phase <= ending && len(o.unmatched) < unmatchedMost && !slices.Contains(o.unmatched, path) {
			o.unmatched = append(o.unmatched, path)
		}
		if o.everyone && len(o.unmatched) > 0 {
			o.matchLater()
		}
	}
}

// matchLater has it tried again what could not be matched with an owner that has no end, at which it would be. The caller holds w.mu.
func (o *Owner) matchLater() {
	if o.rematch {
		return
	}
	w := o.w
	o.rematch = true
	time.AfterFunc(backoff(int(o.rematches)), func() {
		w.intake.wake(func() {
			w.mu.Lock()
			o.rematch, o.rematches = false, min(o.rematches+1, backoffSteps)
			w.mu.Unlock()
			o.matchUnmatched()
			w.mu.Lock()
			defer w.mu.Unlock()
			if len(o.unmatched) == 0 {
				o.rematches = 0
			}
		})
	})
}

// rememberEarly keeps the path of a sighting for those that have no process yet: it may turn out to be theirs.
func (w *Watcher) rememberEarly(s *sighting) {
	w.mu.Lock()
	early := slices.DeleteFunc(slices.Clone(s.interested()), func(o *Owner) bool { return o.phase != prepared })
	w.mu.Unlock()
	w.remember(s.path, early)
}

// matchUnmatched tries again what could not be matched with the owner before.
func (o *Owner) matchUnmatched() {
	w := o.w
	w.mu.Lock()
	paths := o.unmatched
	o.unmatched = nil
	var seen []sighting
	for _, path := range paths {
		if c := o.byPath(path); c != nil && c.named {
			seen = append(seen, sighting{path: path, claim: c})
		}
		for _, p := range o.spaces {
			if p.dir.Path() == parent(path) || p.dir.Path()+"/" == parent(path) {
				seen = append(seen, sighting{path: path, place: p, owners: slices.Clone(p.owners)})
				break
			}
		}
	}
	w.mu.Unlock()
	for some := range slices.Chunk(seen, matchMost) {
		w.match(some)
	}
}

// failing tells whether an error says nothing of what was looked at: the kernel could not, and may another time.
func failing(err error) bool {
	return exhausted(err) || errors.Is(err, unix.EIO) || errors.Is(err, unix.ESTALE) || errors.Is(err, unix.ENOSPC)
}

// exhausted tells whether an error is for want of something that others may give back.
func exhausted(err error) bool {
	return errors.Is(err, unix.EMFILE) || errors.Is(err, unix.ENFILE) || errors.Is(err, unix.ENOMEM)
}
