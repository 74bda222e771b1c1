package asuser

import (
	"errors"
	"fmt"
	"runtime"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/sockwatch/sockwatch/internal/sys"
)

// rights are what the calling thread had, and is to have again. The thread is locked: runtime.LockOSThread.
//
// So nothing else runs on it. Go's scheduler, when the goroutine has to wait or to make room for others, puts a locked thread to sleep
// until that goroutine goes on, and hands its processor to another thread (schedule, stoplockedm and startlockedm in runtime/proc.go):
// other goroutines, timers, finalizers and the workers of the garbage collector run there. What the runtime does here on f's account, as to
// allocate and to help the collector, and its handlers of signals, which note them for a goroutine, use memory and no files.
// (iter.Pull is a part of its caller: its goroutine runs on the thread only while f waits for it, and the runtime throws where a thread was
// locked in between.) Who starts a process does that from a thread of his own, and fork(2) copies that one's credentials.
//
// Nor is the thread the parent of one, which would inherit the rights. The runtime may find in the middle of f that it needs a thread more:
// newm sees that it is on a locked thread, and has the template thread make it (newmHandoff). That one was made by the first
// LockOSThread of the process, before it locked and long before there was anything to inherit. All of this holds as well where the caller had
// locked the thread before, since locks are counted, and on the first thread of the process, which is a thread as any other here: nothing
// needs it to end. So said Go 1.26. With cgo it is the same, but C code must make no threads in f.
type rights struct {
	fsgid        uint32
	groups       []uint32
	capabilities sys.Capabilities

	regrouped bool // the thread may have other groups by now
}

// ownRights reads those of the thread, whose fsuid is 0: that was seen to.
func ownRights() (own rights, err error) {
	if own.fsgid, err = sys.FSGID(); err != nil {
		return own, err
	}
	if own.groups, err = sys.ThreadGroups(); err != nil {
		return own, err
	}
	own.capabilities, err = sys.ThreadCapabilities()
	return own, err
}

// exchange gives the thread the user's instead. All is read back: setfsuid(2) and setfsgid(2) do not tell when they fail, and what a
// seccomp filter makes of the others nobody knows. The capabilities are last, for the rest needs them. After an error the thread may have
// some of the user's.
func (own *rights) exchange(u User) error {
	if groups := sorted(u.Groups); !slices.Equal(groups, own.groups) {
		own.regrouped = true
		if err := setGroups(groups); err != nil {
			return err
		}
	}
	if err := sys.SetThreadFSGID(u.GID); err != nil {
		return err
	}
	if err := sys.SetThreadFSUID(u.UID); err != nil {
		return err
	}
	none := own.capabilities
	none.Effective = 0
	return sys.SetThreadCapabilities(none)
}

// attempts are how often it is tried to give a thread its own back.
const attempts = 1000

// restore gives the thread back what it had, and unlocks it; or does not return.
func (own *rights) restore() {
	var err error
	for range attempts {
		if err = own.takeBack(); err == nil || own.areBack() {
			runtime.UnlockOSThread()
			return
		}
	}
	why := fmt.Sprintf("asuser: a thread has the rights of another user and cannot be given its own back, so the process ends: %v", err)
	go panic(why) //nolint:forbidigo // what this thread would do next would be done with a user's rights; recovered from, as here it could be, too
	select {}
}

// takeBack tries to give the thread back what it had. The fsuid needs no capability and is first, for with it those about files become
// effective; then all of them are what they were, and allow the rest.
func (own *rights) takeBack() error {
	return errors.Join(
		sys.SetThreadFSUID(0),
		sys.SetThreadCapabilities(own.capabilities),
		sys.SetThreadFSGID(own.fsgid),
		own.takeBackGroups(),
	)
}

func (own *rights) takeBackGroups() error {
	if !own.regrouped {
		return nil
	}
	return setGroups(own.groups)
}

// areBack tells whether the thread has what it had, though the way back failed: what is refused now was refused before.
func (own *rights) areBack() bool {
	fsuid, err := sys.FSUID()
	if err != nil || fsuid != 0 {
		return false
	}
	now, err := ownRights()
	return err == nil && now.fsgid == own.fsgid && slices.Equal(now.groups, own.groups) && now.capabilities == own.capabilities
}

// setGroups takes them in ascending order, as the kernel keeps them, and reads them back.
func setGroups(groups []uint32) error {
	if err := sys.SetThreadGroups(groups); err != nil {
		return err
	}
	if now, err := sys.ThreadGroups(); err != nil {
		return err
	} else if !slices.Equal(now, groups) {
		return fmt.Errorf("%w: the groups are %d after setgroups of %d", unix.EPERM, now, groups)
	}
	return nil
}

func sorted(groups []uint32) []uint32 {
	if slices.IsSorted(groups) {
		return groups
	}
	return slices.Sorted(slices.Values(groups))
}
