package reap

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sockwatch/sockwatch/internal/sockdiag"
	"github.com/sockwatch/sockwatch/internal/sys"
)

// LeftoverAge is how long ago an inode with a private name must have changed (it is renamed to it, so that is when) to be
// held for the leftover of a crash: before that another remover may be at work. Should one be all the same, it sees
// that its private name is gone, and no harm is done.
const LeftoverAge = time.Second

// leftoverAge is LeftoverAge, but for tests, which cannot know how long they are stopped between two steps.
var leftoverAge = LeftoverAge

// settle brings to an end what a crash interrupted: the removal of a sock-file that has a private name. A dead one is
// removed, a live one gets the name back that it was bound by. It tells the name that the file has or had in the end; ok
// is false where there is nothing to tell.
func (d *dir) settle(pr prober, private string, force, dryRun bool) (r Result, name string, ok bool) {
	p, err := pinName(d, private)
	if err != nil {
		r = refusal("pin", err)
		return r, private, r.Outcome != OutcomeGone
	}
	defer p.unpin()
	if !p.stat.IsSocket() || p.age() < leftoverAge {
		return Result{}, private, false
	}
	if p.stat.Nlink > 1 && p.hasPublicName() {
		return p.dropLink(dryRun)
	}
	r, dead := p.ask(pr)
	if !dead {
		if r.Outcome == OutcomeAlive && !dryRun {
			r, private = p.restore()
		}
		return r, private, true
	}
	if r, dead = p.judgeable(force); !dead {
		return r, private, true
	}
	if err := d.barrier(); err != nil {
		return refusal("barrier", err), private, true
	}
	if r, dead = p.ask(pr); dead {
		r = p.unlink(pr, RemoveOptions{DryRun: dryRun})
	}
	return r, private, true
}

// Settle settles what a crash left under private names in one directory, as a Sweep of it does, which is for a service that was
// killed itself and starts again. young tells that something was passed over that another remover may be at work on: it is settled
// once it is a second old.
//
// root and path are as in OpenAs, path being the directory's. All of it is done with the rights of as: of what that user may not
// look at or rename nothing becomes.
func Settle(as func(f func()) error, root int, path string) (results []Result, young bool, err error) {
	if as == nil {
		as = directly
	}
	if denied := runAs(as, func() { results, young, err = settleIn(root, path) }); denied != nil {
		err = denied
	}
	if err != nil {
		err = &fs.PathError{Op: "settle what is left in", Path: path, Err: err}
	}
	return results, young, err
}

func settleIn(root int, path string) (results []Result, young bool, err error) {
	pr, err := newProber()
	if err != nil {
		return nil, false, err
	}
	defer pr.close()
	fd, err := sys.OpenDirIn(root, path)
	if err != nil {
		return nil, false, err
	}
	if kind, err := sys.FilesystemType(fd); err != nil || isKernelFS(kind) || isNetworkFS(kind) {
		return nil, false, errors.Join(err, sys.Close(fd))
	}
	d, err := shareDir(fd)
	if err != nil {
		return nil, false, err
	}
	defer d.release()
	var names []string
	err = d.list(func(e sys.Dirent) bool {
		if (e.Type == unix.DT_SOCK || e.Type == unix.DT_UNKNOWN) && IsPrivate(string(e.Name)) {
			names = append(names, string(e.Name))
		}
		return true
	})
	for _, private := range names {
		r, name, ok := d.settle(pr, private, false, false)
		if ok {
			r.Path = strings.TrimSuffix(path, "/") + "/" + name
			results = append(results, r)
		} else if p, err := pinName(d, private); err == nil {
			young = young || p.stat.IsSocket() && p.age() < leftoverAge
			p.unpin()
		}
	}
	return results, young, err
}

// Unhide gives the file its name back if it is alive and has a private one, as after a crash in the middle of a removal that would
// have done so. It tells whether it did. Where the name is taken, or the file has another one, it does nothing.
func (f *File) Unhide() (bool, error) {
	pr, err := newProber()
	if err != nil {
		return false, err
	}
	defer pr.close()
	names, err := f.otherNames()
	if err != nil {
		return false, err
	}
	for _, name := range names {
		if !IsPrivate(name) {
			continue
		}
		p, err := pinName(f.dir, name)
		if err != nil {
			continue // settled by another remover
		}
		unhidden, err := f.unhidePin(p, pr)
		p.unpin()
		if unhidden || err != nil {
			return unhidden, err
		}
	}
	return false, nil
}

func (f *File) unhidePin(p pin, pr prober) (unhidden bool, err error) {
	if same, err := f.is(p); err != nil || !same {
		return false, err
	}
	if r, _ := p.ask(pr); r.Outcome != OutcomeAlive {
		return false, nil
	}
	f.alive.Store(true)
	as := f.as
	if as == nil {
		as = directly
	}
	private := p.name
	p.name = f.name()
	var r Result
	if denied := runAs(as, func() { r = p.unhide(private, Result{}) }); denied != nil {
		return false, denied
	}
	if r.Err != nil {
		if errors.Is(r.Err, unix.EEXIST) {
			r.Err = nil
		}
		return false, r.Err
	}
	return true, nil
}

// restore renames a live leftover back, and gives the name that it has then. It is OutcomeAlive, unless the kernel has failed us: then it
// cannot be reached by its name, and could be.
func (p pin) restore() (r Result, name string) {
	private, alive := p.name, Result{Outcome: OutcomeAlive}
	original, err := p.boundName()
	if err == nil {
		p.name = original
		if r = p.unhide(private, alive); r.Err == nil {
			return r, original
		}
		err = r.Err
	} else {
		err = fmt.Errorf("kept as %s: find the name it was bound by: %w", private, err)
	}
	if r = alive; !errors.Is(err, errNotListed) && !errors.Is(err, errors.ErrUnsupported) && !errors.Is(err, unix.EEXIST) {
		r = refusal("alive", err)
	}
	r.Err = err
	return r, private
}

// hasPublicName tells whether the directory has an entry of the inode that is not private.
func (p pin) hasPublicName() bool {
	found := false
	err := p.dir.list(func(e sys.Dirent) bool {
		if e.Ino == p.stat.Ino && !IsPrivate(string(e.Name)) {
			found, _ = p.named(string(e.Name))
		}
		return !found
	})
	return err == nil && found
}

// dropLink removes the private name of a file that has its own name, too. Where there is no RENAME_NOREPLACE a removal makes
// such links, see hideReplacing and unhide. Nothing becomes of the file, so there is nothing to tell.
func (p pin) dropLink(dryRun bool) (r Result, name string, ok bool) {
	same, err := p.named(p.name)
	if err == nil && same && !dryRun {
		err = sys.Unlink(p.dir.fd, p.name)
	}
	if err != nil {
		r = refusal("unlink", err)
	}
	return r, p.name, err != nil && r.Outcome != OutcomeGone
}

var errNotListed = errors.New("no socket in this network namespace, or more than one, is listed as bound to it")

// boundName asks the socket table for the name in its directory that a live sock-file was bound by: the last element of
// the socket's address. The kernel gives the inode number cut to 32 bits, so two names are none.
func (p pin) boundName() (string, error) {
	conn, err := sockdiag.Dial()
	if err != nil {
		return "", err
	}
	defer conn.Close()
	found := ""
	for reading := 0; reading < tableReadings && found == ""; reading++ {
		for s, err := range conn.Dump() {
			if err != nil {
				return "", err
			}
			if s.VFSInode != uint32(p.stat.Ino) || s.Dev() != p.stat.Dev {
				continue
			}
			name := s.Name[strings.LastIndexByte(s.Name, '/')+1:]
			if found != "" && found != name {
				return "", errNotListed
			}
			found = name
		}
	}
	if found == "" || IsPrivate(found) {
		return "", errNotListed
	}
	return found, nil
}
