package watch

import (
	"errors"
	"fmt"
	"io/fs"
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
	path   string
	file   *reap.File  // nil while pending
	dir    *watchedDir // watched for what appears under the path's name; nil where nobody named it
	source Source
	state  claimState
	result *reap.Result // the latest outcome

	later *later // belongs to the loop; nil until the owner died and the socket lives
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
	w, name := o.w, base(path)
	w.mu.Lock()
	if err := o.claimable(); err != nil {
		w.mu.Unlock()
		return nil, fmt.Errorf("claim %s: %w", path, err)
	}
	c := o.byPath(path)
	if c != nil {
		c.strengthen(s)
	} else {
		c = &Claim{owner: o, path: path, source: s}
		o.add(c)
	}
	if c.dir == nil && o.phase <= watching {
		// First the watch, then the look: what appears in between is seen by both. A parent that is not there yet, or
		// cannot be watched, is no error: the path is looked up at the owner's end.
		if d, err := w.watchDir(strings.TrimSuffix(path, name)); err == nil {
			c.dir = d
			d.names[name] = append(d.names[name], c)
		} else if !errors.Is(err, fs.ErrNotExist) {
			w.log.Warn().Err(err).Str("path", path).Msg("a claim's directory is not watched for its file to appear; it is looked up at the owner's end")
		}
	}
	w.mu.Unlock()

	w.identify(c)
	return c, nil
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
	c, _, err := o.claimFile(f, s)
	return c, err
}

func (o *Owner) claimFile(f *reap.File, s Source) (c *Claim, isNew bool, err error) {
	old := o.replaced(f.Path())
	o.w.mu.Lock()
	defer o.w.mu.Unlock()
	if err := o.claimable(); err != nil {
		return nil, false, fmt.Errorf("claim %s: %w", f.Path(), err)
	}
	if c := o.byID(f.ID()); c != nil {
		c.strengthen(s)
		_ = f.Close()
		return c, false, nil
	}
	// A path that was told and not found yet is this file, and so is one that another inode had.
	if c := o.byPath(f.Path()); c != nil && c.state == armed && (c.file == nil || c.file == old && o.phase <= watching) {
		c.strengthen(s)
		o.setFile(c, f)
		if old != nil {
			_ = old.Close()
		}
		return c, false, nil
	}
	c = &Claim{owner: o, path: f.Path(), source: s}
	o.add(c)
	o.setFile(c, f)
	return c, true, nil
}

// replaced gives the file of the claim on a path, if another inode has the name by now.
func (o *Owner) replaced(path string) *reap.File {
	o.w.mu.Lock()
	var claimed *reap.File
	if c := o.byPath(path); c != nil && c.state == armed && o.phase <= watching {
		claimed = c.file
	}
	o.w.mu.Unlock()
	if claimed == nil {
		return nil
	}
	f, err := reap.Open(path)
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
	o.w.emitClaim(c)
	if o.phase >= dead {
		o.phase = dead
		o.w.owners[o] = struct{}{}
		o.settled.rearm()
		o.w.tasks = append(o.w.tasks, func() { o.w.settle(o, []*Claim{c}, o.exitAt) })
		o.w.wakeLoop()
	}
}

func (w *Watcher) emitClaim(c *Claim) {
	w.emit(Event{
		Time: now(), Kind: KindClaimed, Owner: c.owner.id, Comm: c.owner.comm,
		Source: c.source, Result: reap.Result{Path: c.path},
	})
}

// setFile makes a claim an identified one. The caller holds w.mu.
func (o *Owner) setFile(c *Claim, f *reap.File) {
	if o.index != nil && c.file != nil && o.index.ids[c.file.ID()] == c {
		delete(o.index.ids, c.file.ID())
	}
	c.file = f
	o.reindex(c)
}

// strengthen notes that the claim was learnt from one more source. The caller holds w.mu.
func (c *Claim) strengthen(s Source) {
	if s < c.source {
		c.source = s
	}
}

// Release withdraws the claim and keeps the file. It returns false when removal has begun or has come to its end.
func (c *Claim) Release() (released bool) {
	w := c.owner.w
	w.mu.Lock()
	released = c.withdraw()
	w.mu.Unlock()
	if released {
		w.post(func() {
			w.mu.Lock()
			defer w.mu.Unlock()
			c.discard()
			w.settledIfDone(c.owner)
		})
	}
	return released
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
	delete(w.unseen, c)
	if c.state == withdrawn && c.owner.phase != finished {
		c.owner.remove(c)
	}
	if c.file != nil && (c.later == nil || !c.later.searched) { // else the search still reads it and closes it after
		_ = c.file.Close()
		c.file = nil
	}
}

// unwatch ends watching for what appears under the claim's name. The caller holds w.mu.
func (c *Claim) unwatch() {
	if c.dir == nil {
		return
	}
	name := base(c.path)
	rest := slices.DeleteFunc(c.dir.names[name], func(other *Claim) bool { return other == c })
	if len(rest) == 0 {
		delete(c.dir.names, name)
	} else {
		c.dir.names[name] = rest
	}
	c.owner.w.unwatchDir(c.dir)
	c.dir = nil
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

// claimIndex finds the claims of an owner that has many.
type claimIndex struct {
	paths map[string]*Claim
	ids   map[reap.ID]*Claim
}

// indexFrom is the number of claims from which an index pays.
const indexFrom = 16

// reindex notes the path and the identity of a claim. The caller holds w.mu.
func (o *Owner) reindex(c *Claim) {
	if o.index == nil {
		if len(o.claims) < indexFrom {
			return
		}
		o.index = &claimIndex{paths: map[string]*Claim{}, ids: map[reap.ID]*Claim{}}
		for _, c := range o.claims {
			o.index.note(c)
		}
		return
	}
	o.index.note(c)
}

func (x *claimIndex) note(c *Claim) {
	x.paths[c.path] = c
	if c.file != nil {
		x.ids[c.file.ID()] = c
	}
}

// byPath finds the claim on a path. The caller holds w.mu.
func (o *Owner) byPath(path string) *Claim {
	if o.index != nil {
		if c := o.index.paths[path]; c != nil && c.state != withdrawn {
			return c
		}
		return nil
	}
	for _, c := range o.claims {
		if c.path == path && c.state != withdrawn {
			return c
		}
	}
	return nil
}

// byID finds the claim on a file. The caller holds w.mu.
func (o *Owner) byID(id reap.ID) *Claim {
	if o.index != nil {
		if c := o.index.ids[id]; c != nil && c.is(id) {
			return c
		}
		return nil
	}
	for _, c := range o.claims {
		if c.is(id) {
			return c
		}
	}
	return nil
}

// is tells whether the claim is on the file with this identity. The caller holds w.mu.
func (c *Claim) is(id reap.ID) bool {
	return c.state != withdrawn && c.file != nil && c.file.ID() == id
}
