package reap

import (
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sockwatch/sockwatch/internal/sys"
)

// RemoveOptions says how a removal is to be done. The zero value removes.
type RemoveOptions struct {
	// DryRun decides as a removal would and touches nothing.
	DryRun bool
	// NameOnly looks at the File's own name alone: a directory may be so large that to look for others takes long. Where they would have
	// been looked for, Result.Elsewhere says so, and RemoveElsewhere does it.
	NameOnly bool
	// Commit, if set, is asked right before the first change to the directory. False gives a Result with ErrAborted:
	// this is the moment up to which a claim can be withdrawn. It may be called once for each name of the inode.
	Commit func() bool
	// As, if set, runs what changes the directory with the rights of another user: f changes it, on whatever thread As has it
	// run. As returns when f has, or gives an error and does not run it: then nothing is changed, and the Result is
	// OutcomeRefused with ReasonPermission, or what is made of an error such as EMFILE and ENOMEM. It may be called more than once for each name of the inode. What only looks is done by the
	// caller: a user may be denied the probe of his own file, by its mode.
	As func(f func()) error
}

// Remove removes the sock-file if it is still the inode that was opened and no socket is bound to it, and nothing else
// ever: unlink(2) cannot be told "only if it is this inode", so the entry is first renamed to a private name, looked at
// there, and unlinked only if it is the right one. Another inode that got in between is renamed back.
//
// A file that was renamed or hard-linked inside its directory is found by its identity and removed under all its names
// there. One that nobody can find any more is OutcomeGone, which is success.
//
// A file that no File or Probe saw alive may be in the middle of its bind(2). bind holds the lock of the directory
// until the socket is found by the probe, so Remove takes that lock once, by unlinking a name that is not there, and
// probes again.
//
// It returns at once and never panics; what the kernel refuses is in the Result.
func (f *File) Remove(o RemoveOptions) Result {
	start := time.Now()
	r := f.remove(o)
	r.DryRun = o.DryRun
	r.finish(f, start)
	return r
}

func (f *File) remove(o RemoveOptions) Result {
	pr, err := newProber()
	if err != nil {
		return refusal("make the probe's socket", err)
	}
	defer pr.close()

	options := func(string) RemoveOptions { return o }
	first, links := f.removeName(pr, f.name(), options)
	first.DryRun = o.DryRun
	if first.Outcome != OutcomeGone && first.Outcome != OutcomeReplaced && (first.Outcome != OutcomeRemoved || links <= 1) {
		return first
	}
	// The name is gone or is another inode's, or the inode has more names: look for them in the directory.
	if o.NameOnly {
		first.Elsewhere = true
		return first
	}
	others, err := f.otherNames()
	return f.removeOthers(pr, others, err, first, options)
}

// removeOthers removes the inode under the other names that were found, or err was what came of looking for them.
func (f *File) removeOthers(pr prober, others []string, err error, first Result, options func(name string) RemoveOptions) Result {
	switch {
	case err == nil:
	case first.Outcome == OutcomeRemoved, errors.Is(err, unix.EACCES):
		first.Err = err // as far as one can see
	default:
		r := refusal("look for other names", err)
		r.DryRun = first.DryRun
		return r
	}
	dryRun := first.DryRun
	for _, name := range others {
		r, _ := f.removeName(pr, name, func(name string) RemoveOptions {
			o := options(name)
			dryRun = o.DryRun
			return o
		})
		if r.Outcome != OutcomeGone && r.Outcome != OutcomeReplaced {
			r.DryRun = dryRun
			first = r
		}
	}
	return first
}

// removeName runs the protocol on one name of the directory and tells how many links the inode had. The options are asked for when the name is
// known to be the inode's.
func (f *File) removeName(pr prober, name string, options func(name string) RemoveOptions) (r Result, links uint64) {
	p, err := pinName(f.dir, name)
	if err != nil {
		return refusal("pin", err), 0
	}
	defer p.unpin()
	if !p.stat.IsSocket() {
		return Result{Outcome: OutcomeReplaced, Reason: ReasonNotSocket}, 0
	}
	if same, err := f.is(p); err != nil {
		return refusal("identify", err), 0
	} else if !same {
		return Result{Outcome: OutcomeReplaced}, 0
	}
	o := options(name)
	if o.As == nil {
		o.As = f.as
	}
	r, dead := p.condemnBy(pr, f.alive.Load(), o)
	if dead {
		r = p.unlink(pr, o)
	} else if r.Outcome == OutcomeAlive {
		f.alive.Store(true)
	}
	return r, p.stat.Nlink
}

// condemn finds out whether the pinned inode is dead for good. If not, the Result says why it is kept.
func (p pin) condemn(pr prober, seenAlive bool) (r Result, dead bool) {
	return p.condemnBy(pr, seenAlive, RemoveOptions{})
}

// condemnBy is condemn with the barrier as the options have it.
func (p pin) condemnBy(pr prober, seenAlive bool, o RemoveOptions) (r Result, dead bool) {
	if r, dead = p.ask(pr); !dead || seenAlive {
		return r, dead
	}
	if r, ok := p.judgeable(false); !ok {
		return r, false
	}
	if err := o.barrier(p.dir); err != nil {
		return refusal("barrier", err), false
	}
	return p.ask(pr)
}

// ask probes once.
func (p pin) ask(pr prober) (r Result, dead bool) {
	state, err := pr.probe(p)
	switch state {
	case StateDead:
		return Result{}, true
	case StateAlive:
		return Result{Outcome: OutcomeAlive}, false
	default:
		r = Result{Outcome: OutcomeUnknown, Reason: probeReason(err), Err: fmt.Errorf("probe: %w", err)}
		if r.Reason == ReasonPermission {
			r.Outcome = OutcomeRefused
		}
		return r, false
	}
}

// judgeable tells whether "dead" can be believed of an inode that was never seen alive. Force believes it of what may
// be a layer of an overlay, too.
func (p pin) judgeable(force bool) (Result, bool) {
	v := p.dir.view()
	if reason := v.blind(force); reason != ReasonNone {
		err := fmt.Errorf("%w: a socket that is bound to it elsewhere would not be seen from here", ErrRefused)
		if v.doubt != nil {
			// For want of a descriptor, say. It is not known to be blind, and may be found not to be the next time.
			if r := refusal("look at its place", v.doubt); r.Outcome == OutcomeFailed {
				return r, false
			}
			err = fmt.Errorf("%w, for all one can tell: %v", err, v.doubt) //nolint:errorlint // that errno is not about the file
		}
		return Result{Outcome: OutcomeRefused, Reason: reason, Err: err}, false
	}
	if p.stat.Nlink > 1 {
		// A bind through another directory could be under way, and its lock is not ours to wait for.
		return Result{
			Outcome: OutcomeRefused, Reason: ReasonHardLinked,
			Err: fmt.Errorf("%w: it has %d links and was never seen alive", ErrRefused, p.stat.Nlink),
		}, false
	}
	return Result{}, true
}

// barrier waits until every bind(2) that is under way in the directory has come to its end, by an operation that takes
// the directory's lock and changes nothing. bind holds this lock from making the file until the socket is found by it.
func (d *dir) barrier() error {
	err := sys.Unlink(d.fd, absentName())
	if err == nil || errors.Is(err, unix.ENOENT) {
		return nil
	}
	return err
}

// unlink removes the pinned and condemned inode under the pinned name.
func (p pin) unlink(pr prober, o RemoveOptions) Result {
	same, err := p.named(p.name)
	if err != nil {
		return refusal("look at the name again", err)
	}
	if !same {
		return Result{Outcome: OutcomeReplaced}
	}
	if o.DryRun {
		return o.foresee(p)
	}
	if o.Commit != nil && !o.Commit() {
		return Result{Outcome: OutcomeUnknown, Err: ErrAborted}
	}
	return o.drop(p, pr)
}

// drop takes the pinned inode out of its directory by way of a private name. The last probe is ask's.
func (p pin) drop(pr prober, ask func(pin, prober) (r Result, dead bool)) Result {
	private, err := p.hide()
	if err != nil {
		return refusal("rename to a private name", err)
	}
	same, err := p.named(private)
	if errors.Is(err, unix.ENOENT) {
		return Result{Outcome: OutcomeGone} // another remover was faster
	}
	if err != nil {
		return p.unhide(private, refusal("look at the private name "+private, err))
	}
	if !same {
		return p.unhide(private, Result{Outcome: OutcomeReplaced})
	}
	if r, dead := ask(p, pr); !dead {
		return p.unhide(private, r)
	}
	if err := sys.Unlink(p.dir.fd, private); err != nil {
		return p.unhide(private, refusal("unlink", err))
	}
	return Result{Outcome: OutcomeRemoved, At: time.Now()}
}

// privateTries is how many private names are tried for one that is free. The shortest have 25 random bits.
const privateTries = 64

// hide renames the entry to a private name, so that nobody can bind under the name that is then unlinked.
func (p pin) hide() (private string, err error) {
	for range privateTries {
		private = privateName(p.name)
		err = sys.RenameNoReplace(p.dir.fd, p.name, private)
		if !errors.Is(err, unix.EEXIST) {
			break
		}
	}
	if errors.Is(err, unix.EINVAL) {
		return p.hideReplacing()
	}
	return private, err
}

// hideReplacing is hide for filesystems without RENAME_NOREPLACE: a plain rename to a name of 128 random bits. The way
// back from there is a link, which replaces nothing either; so first see that there are links here.
func (p pin) hideReplacing() (private string, err error) {
	trial := absentName()
	if err := sys.Link(p.dir.fd, p.name, trial); err != nil {
		return "", fmt.Errorf("no RENAME_NOREPLACE on this filesystem, and no way back by a link: %w", notFailed(err))
	}
	if err := sys.Unlink(p.dir.fd, trial); err != nil {
		return "", err
	}
	private = absentName()
	return private, sys.Rename(p.dir.fd, p.name, private)
}

// notFailed makes a permission matter of the errors by which a filesystem says that it has no hard links.
func notFailed(err error) error {
	if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EMLINK) || errors.Is(err, unix.ENOSYS) {
		return fmt.Errorf("%w (%w)", unix.EPERM, err)
	}
	return err
}

// unhide gives the private name's inode its name back and returns r. Where the name is taken by now, the file is left:
// it is settled by a later sweep of the directory, and removed only when dead.
func (p pin) unhide(private string, r Result) Result {
	err := sys.RenameNoReplace(p.dir.fd, private, p.name)
	if errors.Is(err, unix.EINVAL) {
		if err = sys.Link(p.dir.fd, private, p.name); err == nil {
			err = sys.Unlink(p.dir.fd, private)
		}
	}
	if err == nil || errors.Is(err, unix.ENOENT) { // another remover has settled it
		return r
	}
	if r.Outcome == OutcomeReplaced && !errors.Is(err, unix.EEXIST) {
		// What has replaced it may be alive, and cannot be reached by its name.
		failure := refusal("rename back", err)
		r.Outcome, r.Reason = failure.Outcome, failure.Reason
	}
	err = fmt.Errorf("kept as %s: rename back: %w", private, err)
	if r.Err != nil {
		err = fmt.Errorf("%w; %w", r.Err, err)
	}
	r.Err = err
	return r
}
