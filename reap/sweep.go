package reap

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"strings"
	"time"

	"github.com/bmatcuk/doublestar/v4"
	"golang.org/x/sys/unix"

	"github.com/sockwatch/sockwatch/internal/sys"
)

// SweepOptions says which sock-files a sweep looks at, and how. The zero value removes the dead ones in the directories
// themselves, of any name and age.
type SweepOptions struct {
	// Recursive takes the directories below, too. Symlinks to directories are not followed. Filesystems mounted below are
	// entered, except procfs, sysfs and those of which a sweep removes nothing: network filesystems and FUSE.
	Recursive bool
	// DryRun gives the Results that removal would have, and touches nothing.
	DryRun bool
	// Force removes what is dead in a directory that is, or may be, the layer of an overlay. It overrides nothing else.
	Force bool
	// Match, if set, is the pattern that a sock-file's path must match, relative to the directory given: "*.sock",
	// "**/agent.*", "{a,b}/[0-9]*". The syntax is doublestar's, https://github.com/bmatcuk/doublestar.
	Match string
	// MinAge passes over sock-files that are younger. The age is the time since the inode last changed: was bound, renamed,
	// linked, given another owner or mode. It is the ctime of stat(2), which unlike the mtime nobody can set.
	MinAge time.Duration
}

// ErrBadPattern is what Validate says of a Match that is no pattern.
var ErrBadPattern = doublestar.ErrBadPattern

// Validate tells what is wrong with the options: a Match that is no pattern (ErrBadPattern), a negative MinAge.
func (o SweepOptions) Validate() error {
	if !doublestar.ValidatePattern(o.Match) {
		return fmt.Errorf("match %q: %w", o.Match, ErrBadPattern)
	}
	if o.MinAge < 0 {
		return fmt.Errorf("minimum age %v: negative", o.MinAge)
	}
	return nil
}

// Sweep removes dead sock-files from directories, those for which there is no claim, after the fact. Each iteration over
// the result is a sweep. Options that are not valid give one Result, with the error of Validate.
//
// It gives a Result for each sock-file that it looked at, live ones too (OutcomeAlive), as it goes and in no order.
// Files of other types are passed over in silence, and so is what does not match or is too young.
//
// Nothing stops it but the caller and ctx. A directory that cannot be read gives a Result with its own path
// (OutcomeRefused with ReasonPermission, else OutcomeFailed), so does one of dirs that is not there or no directory
// (OutcomeFailed), and the sweep goes on.
//
// A sock-file is dead if it is so after every bind(2) that was under way in its directory came to its end, see
// [File.Remove]. It is kept where that cannot be believed, or where the file has links elsewhere, as none was seen alive before.
//
// What a crash left under a private name more than a second ago is settled, whatever Match and MinAge say: removed if
// dead, else renamed back where the kernel can tell to what. See [IsPrivate].
//
// It takes memory and descriptors, fewer than 100 and two for each level of directories, that do not depend on the number of
// files, and starts no goroutine. When the iteration is left or ctx is done, everything is closed and nothing more is touched.
func Sweep(ctx context.Context, o SweepOptions, dirs ...string) iter.Seq[Result] {
	return func(yield func(Result) bool) {
		s := sweep{SweepOptions: o, ctx: ctx, yield: yield, start: time.Now()}
		if err := o.Validate(); err != nil {
			s.tell(Result{Outcome: OutcomeFailed, Err: err})
			return
		}
		pr, err := newProber()
		if err != nil {
			s.tell(refusal("make the probe's socket", err))
			return
		}
		s.pr = pr
		defer s.close()
		for _, path := range dirs {
			if ctx.Err() != nil || !s.given(path) {
				return
			}
		}
	}
}

// batchSize is how many sock-files share a barrier. Each holds a descriptor meanwhile.
const batchSize = 64

// sweep is one that is under way. Methods that return a bool return false when it is to end.
type sweep struct {
	SweepOptions
	ctx   context.Context
	yield func(Result) bool
	start time.Time
	pr    prober
	batch []suspect // in one directory
}

// now is the time since the start.
func (s *sweep) now() time.Duration { return time.Since(s.start) }

// suspect is a sock-file that probed dead, and may be so because its bind(2) is not over.
type suspect struct {
	pin
	path string
	took time.Duration
}

// close also serves an iteration that panicked.
func (s *sweep) close() {
	for _, c := range s.batch {
		c.unpin()
	}
	s.pr.close()
}

func (s *sweep) tell(r Result) bool {
	r.DryRun = s.DryRun
	return s.yield(r)
}

// tellDirectory tells that something could not be done with a directory. One that is gone had nothing to remove.
func (s *sweep) tellDirectory(op, path string, err error) bool {
	r := refusal(op, err)
	if r.Outcome == OutcomeGone {
		return true
	}
	r.Path, r.Err = path, &fs.PathError{Op: op, Path: path, Err: err}
	return s.tell(r)
}

// given sweeps one of the directories that were given.
func (s *sweep) given(path string) bool {
	d, err := openDir(path)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) {
		return s.tell(Result{Path: path, Outcome: OutcomeFailed, Err: &fs.PathError{Op: "open directory", Path: path, Err: err}})
	}
	if err != nil {
		return s.tellDirectory("open directory", path, err)
	}
	defer d.release()
	return onKernelFS(d.fd) || s.directory(place{dir: d, path: path, network: onNetworkFS(d.fd)})
}

// directory sweeps a directory, first its own sock-files and then what is below. So it holds neither names nor pins of one
// while it is in another, and the barrier is for one directory.
func (s *sweep) directory(p place) bool {
	if s.ctx.Err() != nil {
		return false
	}
	going, below := true, false
	err := p.list(func(e sys.Dirent) bool {
		if e.Type == unix.DT_DIR || e.Type == unix.DT_UNKNOWN {
			below = true
		}
		if e.Type == unix.DT_SOCK || e.Type == unix.DT_UNKNOWN {
			going = s.file(p, p.entry(string(e.Name)))
		}
		going = going && s.ctx.Err() == nil
		return going
	})
	going = going && s.flush()
	if err != nil {
		return going && s.tellDirectory("read directory", p.path, err)
	}
	if !going || !below || !s.Recursive {
		return going
	}
	return p.subdirectories(s.directory, s.tellDirectory)
}

// file looks at an entry that is, or may be, a sock-file.
func (s *sweep) file(p place, path string) bool {
	name, start := path[strings.LastIndexByte(path, '/')+1:], s.now()
	if IsPrivate(name) {
		r, name, ok := p.settle(s.pr, name, s.Force, s.DryRun)
		r.Path, r.Took = p.entry(name), s.now()-start
		return !ok || s.tell(r)
	}
	if s.Match != "" && !doublestar.MatchUnvalidated(s.Match, p.rel+name) {
		return true
	}
	c, err := pinName(p.dir, name)
	if errors.Is(err, unix.EMFILE) && len(s.batch) > 0 {
		if !s.flush() {
			return false
		}
		c, err = pinName(p.dir, name)
	}
	if err != nil {
		if errors.Is(err, unix.ENOENT) {
			return true // whatever it was
		}
		r := refusal("pin", err)
		r.Path, r.Took = path, s.now()-start
		return s.tell(r)
	}
	if !c.stat.IsSocket() || (s.MinAge > 0 && c.age() < s.MinAge) {
		c.unpin()
		return true
	}
	r, dead := c.ask(s.pr)
	if dead {
		r, dead = c.judgeable(s.Force)
	}
	if !dead {
		c.unpin()
		r.Path, r.Took = path, s.now()-start
		return s.tell(r)
	}
	s.batch = append(s.batch, suspect{pin: c, path: path, took: s.now() - start})
	return len(s.batch) < batchSize || s.flush()
}

// age is the time since the inode last changed, when it was pinned. It is negative where the clock was set back.
func (p pin) age() time.Duration { return time.Since(time.Unix(p.stat.Ctime.Unix())) }

// flush removes the suspects that are dead for good. All are of one directory, so they share one barrier.
func (s *sweep) flush() bool {
	if len(s.batch) == 0 {
		return true
	}
	barrier := s.batch[0].dir.barrier()
	all := s.batch
	for i := range all {
		if s.ctx.Err() != nil {
			return false
		}
		start, c := s.now(), &all[i]
		s.batch = all[i+1:]
		r := s.finish(c.pin, barrier)
		c.unpin()
		r.Path, r.Took = c.path, c.took+s.now()-start
		if !s.tell(r) {
			return false
		}
	}
	s.batch = all[:0]
	return true
}

func (s *sweep) finish(p pin, barrier error) Result {
	if barrier != nil {
		return refusal("barrier", barrier)
	}
	r, dead := p.ask(s.pr)
	if dead {
		r = p.unlink(s.pr, RemoveOptions{DryRun: s.DryRun})
	}
	return r
}
