// Package asuser runs a function with the file access of another user: for a service that is root and must not lend root's
// hands to its clients.
//
// It is about files alone. While the function runs, its thread has the user's fsuid, fsgid and supplementary groups, and no capability is
// effective, so the kernel allows on paths and directories what it would allow that user. All else stays root's: the real and effective
// ids, by which others may send signals to or trace the thread; the permitted capabilities, by which it gets the effective ones back; the
// descriptors, the umask, the working directory and the root directory, which all threads share. A descriptor that root opened is
// open to the function. So it guards against what a user has done to the paths; the function itself is trusted.
//
// Hazards. Where a thread cannot be given its own rights back, the process is ended: see [Do]. The first change of the fsuid makes the
// process not dumpable: PR_SET_DUMPABLE of prctl(2), so it leaves no core dump. While a function runs on the first thread of the
// process, /proc/PID/status tells the user's rights. syscall.Setuid and its like, which go by all threads, must not be used beside Do: on a
// thread that runs a function they fail, and the runtime then ends the process.
package asuser

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"runtime"

	"github.com/sockwatch/sockwatch/internal/sys"
)

// User is whose file access a function gets. UID -1 is nobody's and always an error.
type User struct {
	UID, GID uint32
	Groups   []uint32 // supplementary, without GID unless it is among them: what SO_PEERGROUPS of unix(7) tells
}

// ErrNested is the error of Do within a function that Do runs as another user.
var ErrNested = errors.New("asuser: Do within Do")

// Do runs f with the file access of u, on the thread of the caller, and returns when f has. With an error f was not run. Safe for
// concurrent use.
//
// f may end by a panic or runtime.Goexit. It must not call Do, which is ErrNested, whichever user it is for. It must start no process,
// which would have these credentials in part, and unlock no thread that it has not locked. A goroutine that it starts runs with the process's
// own, one behind iter.Pull with f's.
//
// For root, u.UID 0, f is called directly: root gets what this process has, whatever u's groups are. Where this process itself
// is not root, f is called directly for its own uid, and any other uid is fs.ErrPermission.
//
// When f has ended the thread is given back what it had, which needs nothing but memory of the kernel. If that fails again and again
// the process ends with a panic that nobody can recover from: a thread with rights that are not its own must run nothing else.
func Do(u User, f func()) error {
	switch fsuid, err := sys.FSUID(); {
	case err != nil:
		return failed(u, err)
	case fsuid == 0 && u.UID != 0: // as it is where this process is root, and f is not within another one
	case fsuid != uint32(os.Geteuid()):
		return failed(u, ErrNested)
	case fsuid == u.UID:
		f()
		return nil
	default:
		return failed(u, fmt.Errorf("%w: this process is user %d", fs.ErrPermission, fsuid))
	}
	runtime.LockOSThread()
	own, err := ownRights()
	if err != nil {
		runtime.UnlockOSThread()
		return failed(u, err)
	}
	defer own.restore() // and unlock
	if err := own.exchange(u); err != nil {
		return failed(u, err)
	}
	f()
	return nil
}

func failed(u User, err error) error { return fmt.Errorf("act as user %d: %w", u.UID, err) }
