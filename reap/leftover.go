package reap

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/sockwatch/sockwatch/internal/sockdiag"
	"github.com/sockwatch/sockwatch/internal/sys"
)

// leftoverAge is how long ago an inode with a private name must have changed (it is renamed to it, so that is when) to be
// held for the leftover of a crash: before that another remover may be at work. Should one be all the same, it sees
// that its private name is gone, and no harm is done.
const leftoverAge = time.Second

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

// restore renames a live leftover back, and gives the name that it has then.
func (p pin) restore() (r Result, name string) {
	r.Outcome = OutcomeAlive
	original, err := p.boundName()
	if err != nil {
		r.Err = fmt.Errorf("kept as %s: find the name it was bound by: %w", p.name, err)
		return r, p.name
	}
	private := p.name
	p.name = original
	r = p.unhide(private, r)
	if r.Err != nil {
		return r, private
	}
	return r, original
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
	if found == "" || IsPrivate(found) {
		return "", errNotListed
	}
	return found, nil
}
