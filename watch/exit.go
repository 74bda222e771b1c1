package watch

import (
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/sockwatch/sockwatch/internal/sys"
	"github.com/sockwatch/sockwatch/reap"
)

// now is the time of Events. Durations between two of them are monotonic.
func now() time.Time { return time.Now() }

// ready is called by the loop when the owner's process has ended, and again when it was reaped.
func (o *Owner) ready(reaped bool) {
	w := o.w
	w.mu.Lock()
	phase, process, released := o.phase, o.process, o.released
	w.mu.Unlock()
	if phase == finished || process == nil || released {
		return
	}
	if phase == watching {
		o.died()
	}
	if o.learnExit(reaped) {
		w.mu.Lock()
		o.forget()
		w.settledIfDone(o)
		w.mu.Unlock()
	}
}

// died settles the claims of an owner whose end was just reported.
//
// What is there is removed at once. What the owner made and reported before its end may not have been looked at yet: so what seems to be gone or
// another's waits until that is done, as it may have been moved, or made anew, and so does what is not known yet.
func (o *Owner) died() {
	w, at := o.w, now()
	w.mu.Lock()
	o.phase, o.end = ending, &death{at: at}
	var known, pending []*Claim
	for _, c := range o.claims {
		if c.file != nil {
			known = append(known, c)
		} else {
			pending = append(pending, c)
		}
	}
	w.mu.Unlock()

	// The files first: all else can wait, and costs as much.
	var tried []attempted
	var missing []*Claim
	for _, c := range known {
		if r := w.attempt(c); missed(r) {
			missing = append(missing, c)
		} else {
			tried = append(tried, attempted{c, r})
		}
	}
	behind := w.behind(o)
	if !behind {
		missing = append(missing, pending...)
	}
	for _, c := range missing { // once more: by what is known now
		if r := w.attempt(c); !behind || !missed(r) {
			tried = append(tried, attempted{c, r})
		}
	}
	exit := o.process.Exit()
	info, err := o.process.Info()

	w.mu.Lock()
	o.end.exit = exit
	if err == nil {
		o.comm = info.Comm // it may have executed another program since it was added
	}
	w.emit(Event{Time: at, Kind: KindExited, Owner: o.id, Comm: o.comm, UID: o.uid, Exit: exit})
	o.exited.fire()
	w.mu.Unlock()
	for _, a := range tried {
		w.conclude(a.claim, a.result, at)
	}
	if !behind {
		o.ended()
		return
	}
	w.loop.Go(func() {
		w.catchUp()
		w.post(func() {
			o.matchUnmatched()
			o.ended()
		})
	})
}

// missed tells whether an attempt found no file to remove, or another one.
func missed(r reap.Result) bool {
	return r.Outcome == reap.OutcomeGone || r.Outcome == reap.OutcomeReplaced
}

// attempted is a claim that was tried to be removed.
type attempted struct {
	claim  *Claim
	result reap.Result
}

// behind tells whether something that an owner did before its end may not have been looked at yet.
func (w *Watcher) behind(o *Owner) bool {
	w.mu.Lock()
	unmatched := len(o.unmatched) > 0
	expecting := len(o.spaces) > 0 || slices.ContainsFunc(o.claims, func(c *Claim) bool { return c.place != nil || c.file == nil })
	w.mu.Unlock()
	return unmatched || expecting && w.intake.behind() || w.reporter.behind()
}

// catchUp waits until everything that has happened and was reported by now was looked at.
func (w *Watcher) catchUp() {
	w.intake.catchUp()
	w.reporter.catchUp()
}

// ended settles what is left of an owner whose process has ended, now that all it did is known. The loop calls it.
func (o *Owner) ended() {
	w := o.w
	w.mu.Lock()
	if o.phase != ending { // released meanwhile
		w.mu.Unlock()
		return
	}
	o.phase = dead
	if !o.linger {
		o.leaveSpaces() // it binds nothing any more
	}
	w.mu.Unlock()
	guessed := o.guess()
	w.mu.Lock()
	var left []*Claim
	for _, c := range o.claims {
		if c.state == armed && (c.later == nil || slices.Contains(guessed, c)) {
			left = append(left, c)
		}
	}
	w.mu.Unlock()
	w.settle(o, left, o.end.at)
	w.retryUnseen(o)
}

// settle tries to remove claims of an owner that died at the given time.
func (w *Watcher) settle(o *Owner, claims []*Claim, at time.Time) {
	for _, c := range claims {
		r := w.attempt(c)
		w.conclude(c, r, at)
	}
	w.mu.Lock()
	w.settledIfDone(o)
	w.mu.Unlock()
}

// settledIfDone closes what waits for a dead owner whose claims all have an outcome, and gives the owner up when none
// of them lives on. The caller holds w.mu and is the loop.
func (w *Watcher) settledIfDone(o *Owner) {
	if o.phase != dead || o.open > 0 {
		return
	}
	o.settled.fire()
	// One that is committed is being removed under another name.
	going := slices.ContainsFunc(o.claims, func(c *Claim) bool { return c.state == armed || c.state == committed })
	if !going && o.process == nil && !o.linger {
		o.finish()
	}
}

// learnExit finds out how the process ended and tells whether there is nothing more to learn from its descriptor. The
// status of a process that is not our child is there once its parent has reaped it: wait for that, silent on the zombie.
func (o *Owner) learnExit(reaped bool) (done bool) {
	w := o.w
	if !o.end.exit.Known && reaped {
		if exit := o.process.Exit(); exit.Known {
			w.mu.Lock()
			o.end.exit = exit
			w.emit(Event{Time: now(), Kind: KindExited, Owner: o.id, Comm: o.comm, UID: o.uid, Exit: exit})
			w.mu.Unlock()
		}
	}
	// Before Linux 6.9, which brought pidfs and its inodes, the reaping is not reported.
	if o.end.exit.Known || reaped || o.id.Inode == 0 {
		return true
	}
	if err := sys.EpollMod(w.epfd, int(o.process.Fd()), 0, o.token); err != nil {
		w.log.Error().Err(err).Stringer("owner", o.id).Msg("wait for the owner to be reaped")
		return true
	}
	return false
}

// guess claims what the owner's conventions say it may have bound in its bindspaces and nothing else told.
func (o *Owner) guess() []*Claim {
	o.w.mu.Lock()
	opts := o.opts
	o.w.mu.Unlock()
	if opts == nil {
		return nil
	}
	var guessed []*Claim
	for _, dir := range opts.Bindspaces {
		for _, convention := range opts.Conventions {
			base, err := convention.Build(opts.Name, o.id.PID)
			if err != nil {
				continue // without a name there is nothing to build
			}
			f, err := o.openFile(strings.TrimSuffix(dir, "/") + "/" + base)
			if err != nil {
				continue // a guess: mostly it is not there
			}
			if c := o.claimGuess(f); c != nil {
				guessed = append(guessed, c)
			}
		}
	}
	return guessed
}

// claimGuess claims f, which was not known while the owner lived: it is nobody's if alive.
func (o *Owner) claimGuess(f *reap.File) *Claim {
	w := o.w
	at := w.where(f)
	w.mu.Lock()
	defer w.mu.Unlock()
	if o.claimable() != nil || o.byID(f.ID()) != nil || o.byPath(f.Path()) != nil || w.files[f.ID()] != nil {
		_ = f.Close()
		return nil
	}
	c := newClaim(o, f.Path(), SourceConvention)
	c.later = &later{final: true}
	o.claims = append(o.claims, c)
	o.open++
	o.resume()
	o.setFile(c, f, at)
	w.emitClaim(c)
	return c
}

// attempt tries to remove the file of a claim.
func (w *Watcher) attempt(c *Claim) reap.Result {
	w.mu.Lock()
	path, file, action, aborted := c.path, c.file, c.action, c.state != armed || w.closed
	w.mu.Unlock()
	if aborted || c.later != nil && c.later.elsewhere {
		return reap.Result{Path: path, Err: reap.ErrAborted}
	}
	if file == nil {
		found, err := c.owner.openFile(path)
		if err != nil {
			if action == ActionIgnore {
				return c.ignore()
			}
			return reap.Unopened(path, err)
		}
		at := w.where(found)
		w.mu.Lock()
		switch other := w.files[found.ID()]; {
		case c.file != nil: // somebody has just told which one it is
			_ = found.Close()
		case other != nil && other.state == armed && other.owner.root == c.owner:
			// It was made by one of the owner's tree that lives, and goes with that one.
			_ = found.Close()
			other.strengthen(c.source)
			c.withdraw()
			c.discard()
			w.mu.Unlock()
			return reap.Result{Path: path, Err: reap.ErrAborted}
		default:
			// Found only now: if it is alive, it is somebody else's.
			c.wait().final = true
			c.owner.setFile(c, found, at)
		}
		file, action = c.file, c.action // the Policy was asked again
		w.mu.Unlock()
	}
	if action == ActionIgnore {
		return c.ignore()
	}
	r := file.Remove(c.options(action))
	if r.Outcome != reap.OutcomeRemoved {
		w.mu.Lock()
		if c.state == committed { // begun, and the file is kept: it can be released again
			c.state = armed
		}
		w.mu.Unlock()
	}
	return r
}

// options are those of a removal of the claim's file where the Policy has said what is to become of it: by one name, for removeElsewhere does
// the rest.
func (c *Claim) options(a Action) reap.RemoveOptions {
	return reap.RemoveOptions{DryRun: c.owner.w.dryRun || a != ActionReap, NameOnly: true, Commit: c.commit}
}

// ignore gives up a claim of which nothing is to become. The loop calls it.
func (c *Claim) ignore() reap.Result {
	w := c.owner.w
	w.mu.Lock()
	defer w.mu.Unlock()
	c.withdraw()
	c.discard()
	return reap.Result{Path: c.path, Err: reap.ErrAborted}
}

// conclude records the result of an attempt, or has it repeated. at is when the owner, or the last holder, ended.
func (w *Watcher) conclude(c *Claim, r reap.Result, at time.Time) {
	if errors.Is(r.Err, reap.ErrAborted) {
		return // released meanwhile
	}
	if r.Elsewhere {
		w.removeElsewhere(c, r, func(r reap.Result) { w.conclude(c, r, at) })
		return
	}
	if c.later != nil {
		c.later.since = at
	}
	if r.Outcome == reap.OutcomeAlive || transient(r) {
		w.mu.Lock() // others look whether it waits
		c.wait().since, c.later.step = at, 0
		w.retries.push(c)
		c.unwatch()
		w.mu.Unlock()
		return
	}
	w.outcome(c, r)
	w.mu.Lock()
	defer w.mu.Unlock()
	if c.state != withdrawn {
		c.state = ended
	}
	c.discard()
	if c.owner.phase == watching && !c.named { // settled before its owner's end
		c.owner.remove(c)
	}
}

// transient tells whether a removal failed for want of something that others may give back.
func transient(r reap.Result) bool {
	return r.Outcome == reap.OutcomeFailed && exhausted(r.Err)
}

// outcome records and tells what became of a claim. Being kept for the same reason once more is no news.
func (w *Watcher) outcome(c *Claim, r reap.Result) {
	w.mu.Lock()
	defer w.mu.Unlock()
	c.tell(r)
}

// tell is outcome for who holds w.mu.
func (c *Claim) tell(r reap.Result) {
	w := c.owner.w
	if c.state == withdrawn {
		return
	}
	r.DryRun = w.dryRun || c.action == ActionReport && c.state != committed
	if r.At.IsZero() {
		r.At = now()
	}
	o, first := c.owner, c.result == nil
	if !first && c.result.Outcome == r.Outcome && c.result.Reason == r.Reason {
		return
	}
	c.result = &settled{Result: r}
	if c.file != nil {
		c.result.id = c.file.ID()
	}
	if first {
		o.open--
	}
	if root := o.root; root != nil {
		root.keeps(c, r)
	}
	over := o.itsEnd()
	e := Event{
		Time: r.At, Kind: KindOutcome, Owner: o.id, Comm: o.comm, UID: o.uid, Exit: over.exit,
		Source: c.source, Result: r,
	}
	since := over.at
	if c.later != nil && c.later.lastHolder != nil {
		h := c.later.lastHolder
		e.Owner, e.Comm, e.Exit, since = h.id, h.comm, h.exit, c.later.since
	}
	if !since.IsZero() { // its owner may live on
		e.AfterExit = e.Time.Sub(since)
	}
	w.emit(e)
}

// keeps notes what became of a file that was found in the owner's tree, as long as it is there. The caller holds w.mu.
func (o *Owner) keeps(c *Claim, r reap.Result) {
	if r.Outcome == reap.OutcomeRemoved || r.Outcome == reap.OutcomeGone || r.Outcome == reap.OutcomeReplaced && !c.named {
		delete(o.kept, r.Path)
		return
	}
	if o.kept == nil {
		o.kept = map[string]reap.Result{}
	}
	o.kept[r.Path] = r
}
