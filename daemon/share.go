package daemon

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/sockwatch/sockwatch/internal/asuser"
	"github.com/sockwatch/sockwatch/internal/sys"
)

// Each process that is watched costs the daemon a descriptor, and so does each directory in which something is claimed. A user who
// takes them all would have everybody else refused. So from half of the limit on nobody may have more than an eighth of it, and the last
// eighth is root's. Until then nothing is counted.
const shares = 8

// claimsOfUser is how many claims a user other than root may have of all of his processes. Each costs memory, and a part of a record.
const claimsOfUser = 32 << 10

// busy is how many owners with as many claims each a user may have who is not looked at more closely.
const busy = 16

// room tells whether one more process or claim can be watched for a user, beside claims of paths that are about to be made. The error is a
// *varlink.Error, or one of the kernel's.
func (d *Daemon) room(u asuser.User, beside ...string) error {
	if u.UID == uint32(os.Geteuid()) || u.UID == 0 {
		return nil
	}
	switch taken, limit, err := d.descriptors(); {
	case err != nil:
		return err
	case taken < limit/2:
		return nil
	case taken >= limit-limit/shares:
		return limitReached("descriptors of the daemon", int(limit))
	case uint64(d.cost(u, beside...)) >= limit/shares:
		return limitReached("descriptors of the daemon for a user", int(limit/shares))
	}
	return nil
}

// descriptors are about how many are taken, and the limit.
func (d *Daemon) descriptors() (taken, limit uint64, err error) {
	if limit, _, err = sys.MaxDescriptors(); err != nil {
		return 0, 0, err
	}
	fd, err := d.root.use()
	if err != nil {
		return 0, limit, err
	}
	defer d.root.done()
	next, err := sys.Duplicate(fd) // the lowest number that is free, dup(2): about as many are taken
	if err != nil {
		return 0, limit, err
	}
	_ = sys.Close(next)
	return uint64(next), limit, nil
}

// cost is about how many descriptors a user's processes and claims take, with those of more paths.
func (d *Daemon) cost(u asuser.User, more ...string) int {
	n := 0
	dirs := map[string]struct{}{}
	for _, path := range more {
		dirs[parent(path)] = struct{}{}
	}
	for _, o := range d.watcher.Owners() {
		_, r := d.find(o)
		if r == nil && o.UID() != u.UID || r != nil && r.claimant.UID != u.UID {
			continue
		}
		n++
		if r != nil {
			if r.ownRoot {
				n++
			}
			n += 2 * len(r.bindspaces)
		}
		for _, c := range o.Claims() {
			dirs[parent(c.Path())] = struct{}{}
		}
	}
	return n + 2*len(dirs) // one to watch it, and one to remove from it
}

// roomForClaims is room for claims of what a user has registered, or is about to: of those that are not there yet. What each costs of
// descriptors is room's to tell.
func (d *Daemon) roomForClaims(r *registered, paths []string) error {
	u := r.claimant
	if u.UID == 0 {
		return nil
	}
	more := map[string]struct{}{}
	for _, path := range paths {
		more[path] = struct{}{}
	}
	n := 0
	if r.owner != nil {
		claims := r.owner.Claims()
		n = len(claims)
		for _, c := range claims {
			delete(more, c.Path())
		}
	}
	switch n += len(more); {
	case len(more) == 0:
		return nil
	case n > mostClaims:
		return limitReached("claims of a process", mostClaims)
	case n > busy && d.claimsOf(u)+len(more) > claimsOfUser:
		return limitReached("claims of a user", claimsOfUser)
	}
	return nil
}

// claimsOf is how many claims a user's registered processes have; fewer than there can be, where those are few anyway.
func (d *Daemon) claimsOf(u asuser.User) int {
	d.mu.Lock()
	if d.byUID[u.UID]*mostClaims < claimsOfUser {
		d.mu.Unlock()
		return 0
	}
	var owners []*registered
	for _, r := range d.owners {
		if r.claimant.UID == u.UID {
			owners = append(owners, r)
		}
	}
	d.mu.Unlock()
	n := 0
	for _, r := range owners {
		n += len(r.owner.Claims())
	}
	return n
}

// exhausted tells whether an error is the want of descriptors.
func exhausted(err error) bool { return errors.Is(err, unix.EMFILE) || errors.Is(err, unix.ENFILE) }

// failing tells whether an error is that the kernel could not do what is well possible, and may another time. It says nothing of what was
// asked about.
func failing(err error) bool {
	return exhausted(err) || slices.ContainsFunc([]error{unix.ENOMEM, unix.ENOSPC, unix.EIO, unix.ESTALE},
		func(e error) bool { return errors.Is(err, e) })
}

// checkName refuses a name that conventions cannot build from.
func checkName(name string) error {
	const longest = 255
	if len(name) > longest || strings.ContainsAny(name, "/\x00") {
		return fmt.Errorf("a name has up to %d bytes, and neither a slash nor a NUL byte", longest)
	}
	return nil
}
