// Package asuser runs a function with the file access of another user: for a service that is root and must not lend root's
// hands to its clients.
//
// It is about files alone. The functions run on threads whose fsuid, fsgid and supplementary groups are the user's and that
// have no capability, so the kernel allows on paths and directories what it would allow that user. All else stays root's:
// the real and effective ids, by which others may send signals to or trace the thread; the descriptors, the umask, the
// working directory and the root directory, which all threads share. A descriptor that root opened is open to the function.
//
// Hazards. The first change of the fsuid makes the process not dumpable: PR_SET_DUMPABLE of prctl(2), so it leaves no core dump.
// A thread is made for each user, and the runtime ends the process when the kernel gives it none: how many users are served
// at once is for the caller to bound. syscall.Setuid and its like, which go by all threads, must not be used beside a Runner: they
// would give credentials back to its threads, or end the process as these may not change theirs.
package asuser

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"sync"
)

// User is whose file access a function gets. UID -1 is nobody's and always an error.
type User struct {
	UID, GID uint32
	Groups   []uint32 // supplementary, without GID unless it is among them: what SO_PEERGROUPS of unix(7) tells
}

func (u User) equal(o User) bool {
	return u.UID == o.UID && u.GID == o.GID && slices.Equal(u.Groups, o.Groups)
}

// ErrClosed is the error of Do after Close.
var ErrClosed = errors.New("asuser: Runner is closed")

// maxIdle is how many threads wait for the next use of their user. A waiting thread costs its stack and nothing else.
const maxIdle = 8

// Runner runs functions as users. Safe for concurrent use.
type Runner struct {
	mu      sync.Mutex
	threads []*thread // the one used last is at the end
	closed  bool
}

// New makes a Runner without threads; they are made at first use. Close ends them.
func New() *Runner { return &Runner{} }

// Do runs f with the file access of u and returns when f has. With an error f was not run.
//
// Functions of one user run one after the other, those of several at the same time. f must return: neither by a panic, which ends
// the process, nor by runtime.Goexit, and it must not call Do for its own user. It must start no process, which would have
// these credentials in part. A goroutine that it starts runs with the process's own.
//
// For root, u.UID 0, f is called directly: root gets what this process has, whatever u's groups are. Where this process itself
// is not root, f is called directly for its own uid, and any other uid is fs.ErrPermission.
func (r *Runner) Do(u User, f func()) error {
	euid := uint32(os.Geteuid())
	switch {
	case u.UID == euid:
		f()
		return nil
	case euid != 0:
		return fmt.Errorf("act as user %d: %w: this process is user %d", u.UID, fs.ErrPermission, euid)
	}
	t, err := r.borrow(u)
	if err != nil {
		return err
	}
	err = t.do(f)
	r.giveBack(t, err)
	if err != nil {
		return fmt.Errorf("act as user %d: %w", u.UID, err)
	}
	return nil
}

// Close ends the threads; those that are in a function, when that returns. It does not wait for them.
func (r *Runner) Close() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.closed = true
	r.trim(0)
}

// borrow gives the thread of a user, which is a new one where there is none.
func (r *Runner) borrow(u User) (*thread, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return nil, ErrClosed
	}
	i := slices.IndexFunc(r.threads, func(t *thread) bool { return t.user.equal(u) })
	var t *thread
	if i < 0 {
		u.Groups = slices.Clone(u.Groups)
		t = newThread(u)
	} else {
		t = r.threads[i]
		r.threads = slices.Delete(r.threads, i, i+1)
	}
	r.threads = append(r.threads, t)
	t.uses++
	return t, nil
}

// giveBack ends a use of the thread. One that failed was never the user's and is ended.
func (r *Runner) giveBack(t *thread, failed error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	t.uses--
	if failed != nil {
		r.threads = slices.DeleteFunc(r.threads, func(o *thread) bool { return o == t })
		return
	}
	if r.closed {
		r.trim(0)
	} else {
		r.trim(maxIdle)
	}
}

// trim ends idle threads, those that were not used for the longest time first, until no more than limit are left or all
// are in use.
func (r *Runner) trim(limit int) {
	for i := 0; i < len(r.threads) && len(r.threads) > limit; {
		if r.threads[i].uses > 0 {
			i++
			continue
		}
		r.threads[i].end()
		r.threads = slices.Delete(r.threads, i, i+1)
	}
}
