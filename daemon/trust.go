package daemon

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"strconv"
	"strings"

	"github.com/sockwatch/sockwatch/client"
	"github.com/sockwatch/sockwatch/internal/asuser"
	"github.com/sockwatch/sockwatch/internal/config"
	"github.com/sockwatch/sockwatch/internal/proc"
	"github.com/sockwatch/sockwatch/internal/varlink"
	"github.com/sockwatch/sockwatch/pidfd"
	"github.com/sockwatch/sockwatch/reap"
	"github.com/sockwatch/sockwatch/watch"
)

// claimant finds out who calls. Whose sock-files may be removed on his word is what the kernel allows him.
func (d *Daemon) claimant(p *varlink.Peer) (asuser.User, error) {
	u := asuser.User{UID: p.UID, GID: p.GID}
	euid := uint32(os.Geteuid())
	switch {
	case p.PID == 0:
		return u, notPermitted("the caller", "it is outside of the daemon's pid namespace")
	case p.UID != euid && p.UID == overflowUID():
		return u, notPermitted("the caller", "its user is not known here: it is of another user namespace")
	case euid != 0 && p.UID != euid && p.UID != 0:
		return u, notPermitted("the caller", fmt.Sprintf("this daemon serves user %d", euid))
	}
	groups, err := p.Groups()
	if err != nil && p.UID != euid {
		return u, fmt.Errorf("ask for the caller's groups: %w", err)
	}
	u.Groups = groups
	return u, nil
}

// overflowUID is what a uid reads as that has no number in our user namespace.
func overflowUID() uint32 {
	n, err := proc.FS("").Sysctl("kernel/overflowuid")
	if err != nil {
		return 65534
	}
	return uint32(n)
}

// mayWatch tells whether a user may register a process: one of his own.
func mayWatch(u asuser.User, p *pidfd.Process, what string) error {
	if p.PID() == os.Getpid() {
		return notPermitted(what, "it is the daemon itself")
	}
	info, err := p.Info()
	if errors.Is(err, pidfd.ErrExited) {
		return &varlink.Error{Name: client.Interface + ".NoSuchProcess", Parameters: map[string]any{"process": what}}
	}
	if err != nil {
		return err
	}
	if u.UID != 0 && info.EUID != u.UID {
		return notPermitted(what, fmt.Sprintf("the process is of user %d", info.EUID))
	}
	return nil
}

var (
	errNotOwn   = fmt.Errorf("%w: the sock-file belongs to another user", fs.ErrPermission)
	errRelative = fmt.Errorf("%w: the path is not absolute", fs.ErrInvalid)
)

// as runs what changes directories with a user's rights; nil is with ours.
func (d *Daemon) as(u asuser.User) func(f func()) error {
	if u.UID == 0 || os.Geteuid() != 0 {
		return nil
	}
	return func(f func()) error { return asuser.Do(u, f) }
}

// openAs opens a sock-file with a user's rights, below a root directory, for it to be removed with these.
func (d *Daemon) openAs(u asuser.User, r *root, path string) (*reap.File, error) {
	if !strings.HasPrefix(path, "/") {
		return nil, &fs.PathError{Op: "open", Path: path, Err: errRelative}
	}
	f, err := r.open(d.as(u), path)
	if err != nil {
		return nil, err
	}
	if u.UID != 0 && f.UID() != u.UID {
		_ = f.Close()
		return nil, &fs.PathError{Op: "open", Path: path, Err: errNotOwn}
	}
	return f, nil
}

// groupsOf are the supplementary groups of who has sent a report: none when it is gone, whoever may have its number now. A zombie
// has the ones that it had.
func groupsOf(s watch.Sender) []uint32 {
	if s.Process == nil {
		return nil
	}
	status, err := proc.FS("").Status(s.PID)
	if err != nil || status.UIDs.Effective != s.UID {
		return nil
	}
	if _, err := s.Process.Info(); err != nil { // after the look: it was reaped meanwhile, and that may have been another process
		return nil
	}
	return status.Groups
}

// userOf is a user as the user database has him, for files that nobody in particular has registered.
func userOf(uid uint32) asuser.User {
	u := asuser.User{UID: uid, GID: overflowUID()}
	found, err := user.LookupId(strconv.FormatUint(uint64(uid), 10))
	if err != nil {
		return u
	}
	if gid, err := strconv.ParseUint(found.Gid, 10, 32); err == nil {
		u.GID = uint32(gid)
	}
	return u
}

// cgroupOf is a process's cgroup, if a rule asks for one.
func cgroupOf(rules config.Rules, pid int) string {
	for _, r := range rules {
		if len(r.Cgroup) == 0 {
			continue
		}
		path, _ := proc.FS("").Cgroup(pid) // "" where it is gone
		return path
	}
	return ""
}

func notPermitted(what, why string) *varlink.Error {
	return &varlink.Error{Name: client.Interface + ".NotPermitted", Parameters: map[string]any{"what": validText(what), "why": validText(why)}}
}

func invalid(what string, err error) error {
	return &varlink.Error{Name: client.Interface + ".Invalid", Parameters: map[string]any{"what": validText(what), "why": validText(err.Error())}}
}
