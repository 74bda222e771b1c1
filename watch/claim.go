package watch

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/sockwatch/sockwatch/reap"
)

// Claim is the record that an owner bound a sock-file: pending while the file's identity is not known, then identified.
type Claim struct {
	owner *Owner

	// Guarded by owner.w.mu. From the owner's end on, file is replaced and closed by the loop alone.
	path     string
	file     *reap.File // nil while pending, and in the end
	at       string     // where the file is, for the Policy
	place    *place     // where it is told what becomes of the path's name; nil where it is not
	named    bool       // somebody named the path: whatever the owner binds there is meant
	source   Source
	traced   bool // nothing tells of it but tracing
	evidence evidence
	action   Action
	state    claimState
	result   *settled // the latest outcome

	later *later // set by the loop; nil until the owner died and the socket lives
}

// settled is what became of a claim, and of which file.
type settled struct {
	reap.Result
	id reap.ID // zero when there was none
}

// evidence is how well it is known that the file is the owner's. Of several owners it is the one's who has the best.
type evidence uint8

const (
	evidenceTold     evidence = iota // somebody said so, or it is a guess
	evidenceReported                 // the process itself said so
	evidenceSeen                     // it was seen to make the file, or to have its socket open
)

func (s Source) evidence() evidence {
	switch s {
	case SourceNotify:
		return evidenceReported
	case SourceTrace, SourceBindspace, SourceSnapshot:
		return evidenceSeen
	default:
		return evidenceTold
	}
}

type claimState uint8

const (
	armed     claimState = iota // waits for the owner's end, or for a holder's
	committed                   // removal has begun
	ended                       // removed, or kept for good
	withdrawn                   // released
)

// Path is the path that is claimed.
func (c *Claim) Path() string {
	c.owner.w.mu.Lock()
	defer c.owner.w.mu.Unlock()
	return c.path
}

// Result is the latest outcome of the claim, if it has one.
func (c *Claim) Result() (r reap.Result, ok bool) {
	c.owner.w.mu.Lock()
	defer c.owner.w.mu.Unlock()
	if c.result == nil {
		return reap.Result{}, false
	}
	return c.result.Result, true
}

// Source is how the claim was learnt: of several ways the most authoritative.
func (c *Claim) Source() Source {
	c.owner.w.mu.Lock()
	defer c.owner.w.mu.Unlock()
	return c.source
}

// Claim records that the owner binds path, or will. The path is made absolute; its last element may be missing, and
// then the claim is pending until a sock-file appears there. A new sock-file of the same owner under the path
// supersedes the old one. A path that is claimed already gives the Claim that there is.
//
// A pending claim whose file first shows up at the owner's end is removed if it is dead and kept for good if not.
func (o *Owner) Claim(path string, s Source) (*Claim, error) {
	path, err := absolute(path)
	if err != nil {
		return nil, fmt.Errorf("claim %s: %w", path, err)
	}
	w := o.w
	o.learnCgroup()
	w.mu.Lock()
	if err := o.claimable(); err != nil {
		w.mu.Unlock()
		return nil, fmt.Errorf("claim %s: %w", path, err)
	}
	c := o.byPath(path)
	if c != nil {
		c.strengthen(s)
	} else {
		c = newClaim(o, path, s)
		o.add(c)
	}
	c.named = true
	w.mu.Unlock()

	// First the watch, then the look: what appears in between is seen by both.
	w.watchName(c)
	w.identify(c)
	return c, nil
}

// watchName has a claim told of what appears under its name.
func (w *Watcher) watchName(c *Claim) {
	d, err := w.spaces.WatchParent(parent(c.path))
	w.mu.Lock()
	defer w.mu.Unlock()
	switch wanted := c.place == nil && c.state == armed && c.owner.phase <= watching && !w.closed; {
	case err != nil && wanted:
		w.log.Warn().Err(err).Str("path", c.path).Msg("a claim's directory is not watched for its file to appear; it is looked up at the owner's end")
	case err == nil && wanted:
		w.use(d).expect(c)
	case err == nil:
		d.Release()
	}
}

// identify looks at what has the name of a claim now, and makes it the claim's file if it is to be.
func (w *Watcher) identify(c *Claim) {
	f, err := c.owner.openFile(c.path)
	if err != nil { // not there, or not a sock-file: pending
		if failing(err) {
			w.remember(c.path, []*Owner{c.owner})
		}
		return
	}
	// A file that is dead is what an earlier life left behind, and the owner is about to replace it: still pending.
	// One that cannot be probed is looked at again at the end.
	s := sighting{path: c.path, file: f, claim: c}
	s.state, _ = f.Probe()
	w.mu.Lock()
	known, pending, attached := c.is(f.ID()), c.file == nil, c.owner.process != nil
	w.mu.Unlock()
	switch {
	case known:
		s.close()
	case pending || !attached:
		w.believe(&s)
	default: // another inode has the name of an identified claim: only the owner's own supersedes it
		w.match([]sighting{s})
	}
}

// absolute makes a path absolute and changes nothing else: after a symlink, ".." is not what filepath.Clean takes it for.
func absolute(path string) (string, error) {
	if filepath.IsAbs(path) {
		return path, nil
	}
	wd, err := os.Getwd()
	return strings.TrimSuffix(wd, "/") + "/" + path, err
}

// base is the last element of a path as it stands.
func base(path string) string { return path[strings.LastIndexByte(path, '/')+1:] }

// ClaimFile records that the owner bound f. It takes f over on success. A file that is claimed already gives the Claim
// that there is.
func (o *Owner) ClaimFile(f *reap.File, s Source) (*Claim, error) {
	c, _, err := o.claimFile(f, s, s.evidence())
	return c, err
}

func (o *Owner) claimFile(f *reap.File, s Source, e evidence) (c *Claim, isNew bool, err error) {
	old := o.replaced(f.Path())
	w := o.w
	o.learnCgroup()
	at := w.where(f)
	w.mu.Lock()
	defer w.mu.Unlock()
	if err := o.claimable(); err != nil {
		return nil, false, fmt.Errorf("claim %s: %w", f.Path(), err)
	}
	if c := o.byID(f.ID()); c != nil {
		c.strengthen(s)
		c.evidence = max(c.evidence, e)
		_ = f.Close()
		return c, false, nil
	}
	// What was found before the owner's end, and is claimed when that is over, as by one of two who kill it.
	if c := o.byPath(f.Path()); c != nil && c.state == ended && f.ID().Stable() && c.result.id == f.ID() {
		_ = f.Close()
		return c, false, nil
	}
	also := s
	if c := w.files[f.ID()]; c != nil && c.owner != o && c.state == armed && c.later == nil {
		switch {
		case c.foundFor(o):
			also, e = c.source, max(c.evidence, e)
			c.giveWay()
		case c.evidence > e:
			c.strengthen(s)
			_ = f.Close()
			return c, false, nil
		case c.evidence < e:
			s = min(s, c.source)
			c.giveWay()
		}
	}
	// A path that was told and not found yet is this file, and so is one that another inode had.
	if c := o.byPath(f.Path()); c != nil && c.state == armed && (c.file == nil || c.file == old && o.phase <= ending) {
		c.strengthen(s)
		c.evidence = max(c.evidence, e)
		o.setFile(c, f, at)
		if old != nil {
			o.closeFile(old)
		}
		return c, false, nil
	}
	c = newClaim(o, f.Path(), s)
	c.source = min(c.source, also)
	c.evidence = e
	o.add(c)
	o.setFile(c, f, at)
	return c, true, nil
}

// replaced gives the file of the claim on a path, if another inode has the name by now.
func (o *Owner) replaced(path string) *reap.File {
	o.w.mu.Lock()
	var claimed *reap.File
	if c := o.byPath(path); c != nil && c.state == armed && o.phase <= ending {
		claimed = c.file
	}
	o.w.mu.Unlock()
	if claimed == nil {
		return nil
	}
	f, err := o.openFile(path)
	if err != nil {
		return nil
	}
	defer f.Close()
	if f.ID() == claimed.ID() {
		return nil
	}
	return claimed
}

// claimable tells whether the owner takes claims. The caller holds w.mu.
func (o *Owner) claimable() error {
	switch {
	case o.w.closed:
		return ErrClosed
	case o.released:
		return ErrReleased
	}
	return nil
}

// add records a new claim. One of an owner that is dead already is settled at once. The caller holds w.mu.
func (o *Owner) add(c *Claim) {
	o.claims = append(o.claims, c)
	o.open++
	o.reindex(c)
	if o.phase == prepared {
		return // Attach will tell
	}
	o.w.decide(c)
	o.changed()
	o.w.emitClaim(c)
	if o.phase >= dead {
		o.resume()
		o.w.tasks = append(o.w.tasks, func() { o.w.settle(o, []*Claim{c}, o.itsEnd().at) })
		o.w.wakeLoop()
	}
}

// resume takes a dead owner up again that had come to its end: there is another claim to settle. The caller holds w.mu.
func (o *Owner) resume() {
	o.phase = dead
	o.w.owners[o] = struct{}{}
	o.settled.rearm()
}

func (w *Watcher) emitClaim(c *Claim) {
	w.emit(Event{
		Time: now(), Kind: KindClaimed, Owner: c.owner.id, Comm: c.owner.comm, UID: c.owner.uid,
		Source: c.source, Result: reap.Result{Path: c.path},
	})
}

// setFile makes a claim an identified one, or a pending one when f is nil; at is where f is. The caller holds w.mu.
func (o *Owner) setFile(c *Claim, f *reap.File, at string) {
	if c.later != nil && c.file != nil && o.phase <= ending && (f == nil || !c.is(f.ID())) {
		o.w.tasks = append(o.w.tasks, func() { o.w.replaced(c) })
		o.w.wakeLoop()
	}
	o.forgetFile(c)
	c.file, c.at = f, at
	if f != nil && o.w.files[f.ID()] == nil {
		o.w.files[f.ID()] = c
	}
	o.reindex(c)
	if o.phase != prepared {
		o.w.decide(c)
		o.changed()
	}
}

// closeFile closes a file that a claim had: the loop does, for it may be at work on it. The caller holds w.mu.
func (o *Owner) closeFile(f *reap.File) {
	o.w.tasks = append(o.w.tasks, func() { o.w.elsewhere.close(f) })
	o.w.wakeLoop()
}

// forgetFile takes a claim's file out of what is found by identity. The caller holds w.mu.
func (o *Owner) forgetFile(c *Claim) {
	if c.file == nil {
		return
	}
	id := c.file.ID()
	if o.index != nil && o.index.ids[id] == c {
		delete(o.index.ids, id)
	}
	if o.w.files[id] == c {
		delete(o.w.files, id)
	}
}

// giveWay leaves the claim's file to an owner of whom it is known better that it is his. The claim on a name goes on, and is
// pending; any other one ends. The caller holds w.mu.
func (c *Claim) giveWay() {
	o := c.owner
	if c.file == nil || c.state != armed || o.phase > ending {
		return
	}
	if c.named {
		old := c.file
		o.setFile(c, nil, "")
		o.closeFile(old)
		c.evidence = evidenceTold
		return
	}
	c.withdraw()
	o.forgetFile(c) // it is the other's from now on
	o.w.tasks = append(o.w.tasks, func() {
		o.w.mu.Lock()
		defer o.w.mu.Unlock()
		c.discard()
		o.w.settledIfDone(o)
	})
	o.w.wakeLoop()
}

// foundFor tells whether the claim is one that nothing tells of but tracing, on a file of o's own process: somebody has added that only after
// its bind was seen. What is said of an owner that was added is meant; two claims of one file would have two outcomes. The caller holds w.mu.
func (c *Claim) foundFor(o *Owner) bool {
	return c.traced && c.owner != o && c.owner.id == o.id
}

// yields tells whether f is known better to be another owner's, and tells that claim that c is about it, too. The caller holds w.mu.
func (o *Owner) yields(c *Claim, f *reap.File, e evidence) bool {
	other := o.w.files[f.ID()]
	if other == nil || other.owner == o || other.state != armed || other.later != nil {
		return false
	}
	if other.foundFor(o) {
		c.evidence = max(c.evidence, other.evidence)
		other.giveWay()
		return false
	}
	if other.evidence <= e {
		return false
	}
	other.strengthen(c.source)
	return true
}

// rename notes that the claim's file has another name, by which f was opened: it takes f over; at is where that is. The caller holds w.mu.
func (c *Claim) rename(f *reap.File, at string, p *place) {
	o, path := c.owner, f.Path()
	c.unindexPath()
	c.unwatch()
	old := c.file
	c.path = path
	o.setFile(c, f, at)
	o.closeFile(old)
	if o.w.places[p.dir] == p {
		p.dir.Retain()
		p.refs++
		p.expect(c)
	}
}

// strengthen notes that the claim was learnt from one more source. The caller holds w.mu.
func (c *Claim) strengthen(s Source) {
	if s >= c.source && (s == SourceTrace || !c.traced) {
		return
	}
	c.source = min(c.source, s)
	c.traced = c.traced && s == SourceTrace
	if c.owner.phase != prepared {
		c.owner.w.decide(c)
	}
}

func newClaim(o *Owner, path string, s Source) *Claim {
	return &Claim{owner: o, path: path, source: s, traced: s == SourceTrace}
}

// Release withdraws the claim and keeps the file. It returns false when removal has begun or has come to its end.
func (c *Claim) Release() (released bool) {
	w := c.owner.w
	w.mu.Lock()
	defer w.mu.Unlock()
	return c.release()
}

// release is Release for who holds w.mu.
func (c *Claim) release() bool {
	w := c.owner.w
	if !c.withdraw() {
		return false
	}
	if !w.closed {
		w.tasks = append(w.tasks, func() {
			w.mu.Lock()
			defer w.mu.Unlock()
			c.discard()
			w.settledIfDone(c.owner)
		})
		w.wakeLoop()
	}
	return true
}

// withdraw takes the claim out of the running, unless removal has begun. The caller holds w.mu.
func (c *Claim) withdraw() bool {
	if c.state != armed {
		return false
	}
	c.state = withdrawn
	if c.result == nil {
		c.owner.open--
	}
	return true
}

// commit is asked right before removal changes anything: it is the last moment of a release.
func (c *Claim) commit() bool {
	w := c.owner.w
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		return false
	}
	if c.state == armed {
		c.state = committed
	}
	return c.state == committed
}

// discard gives up what the claim holds. The caller holds w.mu and is the loop, or the loop has ended.
func (c *Claim) discard() {
	w := c.owner.w
	c.unwatch()
	w.holders.drop(c)
	w.retries.remove(c)
	w.unseen.remove(c)
	if c.state == withdrawn && c.owner.phase != finished {
		c.owner.remove(c)
	}
	c.owner.changed()
	if c.file != nil && (c.later == nil || !c.later.searched) { // else the search still reads it and closes it after
		c.owner.forgetFile(c)
		w.elsewhere.close(c.file)
		c.file = nil
	}
}

// unwatch ends watching for what appears under the claim's name. The caller holds w.mu.
func (c *Claim) unwatch() {
	if p := c.place; p != nil {
		p.forget(c)
		c.owner.w.leave(p)
	}
}

// remove forgets a withdrawn claim. The caller holds w.mu.
func (o *Owner) remove(c *Claim) {
	o.claims = slices.DeleteFunc(o.claims, func(other *Claim) bool { return other == c })
	if o.index == nil {
		return
	}
	if o.index.paths[c.path] == c {
		delete(o.index.paths, c.path)
	}
	if c.file != nil && o.index.ids[c.file.ID()] == c {
		delete(o.index.ids, c.file.ID())
	}
}
