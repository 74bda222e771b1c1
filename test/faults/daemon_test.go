//go:build failpoints

package faults

import (
	"fmt"
	"math/rand/v2"
	"os"
	"testing"

	"github.com/sockwatch/sockwatch/internal/testutil"
)

// faultNames are the errors that the points are given, in turn.
var faultNames = []string{"EIO", "ENOSPC", "EMFILE", "ENFILE", "ENOMEM", "EROFS", "EPERM", "ESTALE"}

// mostPoints is more than there are in a life.
const mostPoints = 2000

// phases are when the faults are: in the life of a daemon that begins with nothing, and of one that takes up the records of another.
var phases = map[string]func(faults ...string) plan{
	"before": func(faults ...string) plan { return plan{before: faults} },
	"after":  func(faults ...string) plan { return plan{after: faults} },
}

// another is a user who is neither root nor the overflow user. He needs no entry in the user database.
const another = 1234

// forUsers runs a test for servers of our own user and, as root, of another one, whose rights the daemon takes on.
func forUsers(t *testing.T, test func(t *testing.T, live func(*testing.T, plan) *life)) {
	build(t)
	for name, uid := range map[string]int{"own": os.Geteuid(), "another": another} {
		t.Run(name, func(t *testing.T) {
			if uid != os.Geteuid() {
				testutil.Require(t, testutil.Root)
			}
			dir := testDir(t)
			user, err := newHand(uid)
			defer user.close()
			must(t, err)
			test(t, func(t *testing.T, p plan) *life { return liveIn(t, dir, user, uid, p) })
		})
	}
}

// eachPoint plays lives with a fault at the first point, the second and so on, until one is not reached; what gives the fault of a point.
// Of a stride of points one is tried, where not all are.
func eachPoint(t *testing.T, stride int, live func(*testing.T, plan) *life, in func(...string) plan, what func(n int) []string) {
	first := 1 + rand.IntN(stride)
	if all {
		first, stride = 1, 1
	}
	lives := 0
	for n := first; n < mostPoints; n += stride {
		fired := true // where the test is left out
		for _, fault := range what(n) {
			t.Run(fmt.Sprintf("%d=%s", n, fault), func(t *testing.T) {
				lives++
				fired = len(live(t, in(fmt.Sprintf("*:%d=%s", n, fault))).fired) > 0
			})
		}
		if !fired || t.Failed() {
			break
		}
	}
	t.Logf("%d lives, of each %d points one", lives, stride)
}

// TestDaemonKilled kills the daemon at each point.
func TestDaemonKilled(t *testing.T) {
	t.Parallel()
	forUsers(t, func(t *testing.T, live func(*testing.T, plan) *life) {
		for phase, in := range phases {
			t.Run(phase, func(t *testing.T) {
				eachPoint(t, 19, live, in, func(int) []string { return []string{"kill"} })
			})
		}
	})
}

// TestDaemonFails has each of the kernel's errors at each point.
func TestDaemonFails(t *testing.T) {
	t.Parallel()
	forUsers(t, func(t *testing.T, live func(*testing.T, plan) *life) {
		for phase, in := range phases {
			t.Run(phase, func(t *testing.T) {
				turn := rand.IntN(len(faultNames))
				eachPoint(t, 23, live, in, func(int) []string {
					if all {
						return faultNames
					}
					turn = (turn + 1) % len(faultNames)
					return faultNames[turn : turn+1]
				})
			})
		}
	})
}

// TestDaemonKilledTwice kills it, and the one after it.
func TestDaemonKilledTwice(t *testing.T) {
	t.Parallel()
	lives := 5
	if all {
		lives = 500
	}
	forUsers(t, func(t *testing.T, live func(*testing.T, plan) *life) {
		for phase, in := range phases {
			t.Run(phase, func(t *testing.T) {
				for range lives {
					first, second := 1+rand.IntN(400), 1+rand.IntN(300)
					t.Run(fmt.Sprintf("%d,%d", first, second), func(t *testing.T) {
						live(t, in(fmt.Sprintf("*:%d=kill", first), fmt.Sprintf("*:%d=kill", second)))
					})
				}
			})
		}
	})
}

// steps are what may fail for as long as there is a disk that is full, or read-only, or a limit that is reached.
var steps = map[string][]string{
	"record/mkdir":      {"ENOSPC", "EROFS", "EPERM"},
	"record/lock":       {"ENOSPC", "EROFS", "EMFILE", "ENOMEM"},
	"record/list":       {"EIO", "EMFILE", "ENOMEM", "ESTALE"},
	"record/read":       {"EIO", "EMFILE", "ENFILE", "ENOMEM", "ESTALE"},
	"record/create":     {"ENOSPC", "EROFS", "EMFILE", "ENFILE", "EIO"},
	"record/write":      {"ENOSPC", "EIO"},
	"record/rename":     {"ENOSPC", "EROFS", "EIO", "ESTALE"},
	"record/delete":     {"EROFS", "EIO", "EPERM"},
	"pidfd_open":        {"EMFILE", "ENFILE", "ENOMEM"},
	"openat":            {"EMFILE", "ENFILE", "EIO"},
	"openat2":           {"EMFILE", "EIO", "ESTALE"},
	"inotify_add_watch": {"ENOSPC", "ENOMEM"},
	"epoll_ctl":         {"ENOSPC", "ENOMEM"},
	"connect":           {"EIO", "ENOMEM", "EPERM"},
	"renameat2":         {"ENOSPC", "EROFS", "EPERM", "EIO"},
	"unlinkat":          {"EROFS", "EPERM", "EIO"},
}

// TestDaemonGoesOnFailing has a step fail each time.
func TestDaemonGoesOnFailing(t *testing.T) {
	t.Parallel()
	forUsers(t, func(t *testing.T, live func(*testing.T, plan) *life) {
		for phase, in := range phases {
			t.Run(phase, func(t *testing.T) {
				for step, errors := range steps {
					if !all {
						errors = []string{errors[rand.IntN(len(errors))]}
					}
					for _, errno := range errors {
						t.Run(step+"="+errno, func(t *testing.T) { live(t, in(step+"="+errno)) })
					}
				}
			})
		}
	})
}
