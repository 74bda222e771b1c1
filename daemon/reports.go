package daemon

import (
	"fmt"
	"io/fs"
	"os"
	"sync"
	"time"

	"github.com/sockwatch/sockwatch/internal/asuser"
	"github.com/sockwatch/sockwatch/reap"
	"github.com/sockwatch/sockwatch/watch"
)

// reportedOfUser is how many bytes the claims may have that a user other than root has by reports: those of all his processes, with their
// paths as they are written in JSON, and with claimBytes for each. So it is a bound on memory, and on what List has to tell.
const (
	reportedOfUser = 4 << 20
	claimBytes     = 256
)

// reports bounds what users have by reports. To count it goes through all claims of a user, so that is done rarely: again when half of what
// was left is used up, and at most ten times in a second of one who has no more. The zero value is ready.
type reports struct {
	mu    sync.Mutex
	users map[uint32]*reported
}

type reported struct {
	left int       // bytes that need no counting
	full time.Time // when it was found that there is no more
}

const (
	countAgain    = 100 * time.Millisecond
	reportedUsers = 1 << 10 // how many are remembered; to forget one costs no more than to count again
)

// openReported opens what a process has reported, with its own rights.
func (d *Daemon) openReported(s watch.Sender, root, path string) (*reap.File, error) {
	if euid := uint32(os.Geteuid()); euid != 0 && s.UID != euid && s.UID != 0 {
		return nil, fmt.Errorf("%w: this daemon serves user %d", fs.ErrPermission, euid)
	}
	u := asuser.User{UID: s.UID, GID: s.GID}
	if err := d.room(u); err != nil {
		return nil, err
	}
	if err := d.roomForReport(u, path); err != nil {
		return nil, err
	}
	u.Groups = groupsOf(s)
	return d.answering.open(u.UID, func() (*reap.File, error) {
		below := d.root
		if root != "/" {
			var err error
			if below, err = openRoot(root); err != nil {
				return nil, err
			}
			defer below.end()
		}
		return d.openAs(u, below, path)
	})
}

// roomForReport tells whether a user may have one more claim by a report.
func (d *Daemon) roomForReport(u asuser.User, path string) error {
	if u.UID == uint32(os.Geteuid()) || u.UID == 0 {
		return nil
	}
	r := &d.reports
	r.mu.Lock()
	defer r.mu.Unlock()
	own := r.users[u.UID]
	if own == nil {
		if r.users == nil || len(r.users) >= reportedUsers {
			r.users = map[uint32]*reported{}
		}
		own = &reported{}
		r.users[u.UID] = own
	}
	cost := reportedBytes(path)
	if own.left < cost {
		if time.Since(own.full) < countAgain {
			return limitReached("bytes of the claims that a user has by reports", reportedOfUser)
		}
		free := reportedOfUser - d.reportedOf(u)
		if free < cost {
			own.left, own.full = 0, time.Now()
			return limitReached("bytes of the claims that a user has by reports", reportedOfUser)
		}
		own.left = max(cost, free/2)
	}
	own.left -= cost
	return nil
}

// reportedOf counts the bytes of the claims that a user has by reports.
func (d *Daemon) reportedOf(u asuser.User) int {
	n := 0
	for _, o := range d.watcher.Owners() {
		if o.UID() != u.UID {
			continue
		}
		for _, c := range o.Claims() {
			if s := c.State(); s.Source == watch.SourceNotify {
				n += reportedBytes(s.Path)
			}
		}
	}
	return n
}

// reportedBytes is about what a claim by a report costs.
func reportedBytes(path string) int {
	n := claimBytes
	for i := range len(path) {
		if c := path[i]; c < ' ' || c > '~' {
			n += len(`\u0001`)
		} else {
			n++
		}
	}
	return n
}
