package sys

import (
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The credentials here are those of the calling thread alone: to the kernel they are a thread's own, and what changes them
// for a process is the C library and the functions of package syscall that go by all threads. So the calls are raw, and who
// changes anything must have locked the thread: runtime.LockOSThread.

// SetThreadGroups gives the thread these supplementary groups and no others: setgroups(2). It needs CAP_SETGID.
func SetThreadGroups(groups []uint32) error {
	// A nil pointer is fine for none.
	_, _, errno := unix.RawSyscall(unix.SYS_SETGROUPS, uintptr(len(groups)), uintptr(unsafe.Pointer(unsafe.SliceData(groups))), 0)
	if errno != 0 {
		return wrap("setgroups", errno)
	}
	return nil
}

// ThreadGroups reads the supplementary groups, which the kernel keeps in ascending order: getgroups(2).
func ThreadGroups() ([]uint32, error) {
	gids, err := unix.Getgroups()
	groups := make([]uint32, len(gids))
	for i, gid := range gids {
		groups[i] = uint32(gid)
	}
	return groups, wrap("getgroups", err)
}

// SetThreadFSGID gives the thread the group that its accesses to files are made with: setfsgid(2). The kernel does not tell that
// it refused, so the group is read back: EPERM where it is another. It needs CAP_SETGID.
func SetThreadFSGID(gid uint32) error {
	if _, err := unix.SetfsgidRetGid(int(gid)); err != nil {
		return wrap("setfsgid", err) // by a seccomp filter
	}
	now, err := unix.SetfsgidRetGid(-1)
	if err == nil && uint32(now) != gid {
		err = fmt.Errorf("%w: the group is %d", unix.EPERM, now)
	}
	return wrap("setfsgid", err)
}

// SetThreadFSUID gives the thread the user that its accesses to files are made with, as SetThreadFSGID does the group: setfsuid(2).
// It needs CAP_SETUID. Signals and ptrace(2) go by the other ids of the thread, so it is not at that user's mercy.
func SetThreadFSUID(uid uint32) error {
	if _, err := unix.SetfsuidRetUid(int(uid)); err != nil {
		return wrap("setfsuid", err)
	}
	now, err := FSUID()
	if err == nil && now != uid {
		return wrap("setfsuid", fmt.Errorf("%w: the user is %d", unix.EPERM, now))
	}
	return err
}

// DropThreadCapabilities empties the effective, permitted, inheritable and ambient sets of the thread, for good, and reads them
// back: capset(2), prctl(2), capabilities(7).
func DropThreadCapabilities() error {
	if err := unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0); err != nil {
		return wrap("prctl PR_CAP_AMBIENT", err)
	}
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var none, left [2]unix.CapUserData
	if err := unix.Capset(&header, &none[0]); err != nil {
		return wrap("capset", err)
	}
	err := unix.Capget(&header, &left[0])
	if err == nil && left != none {
		err = fmt.Errorf("%w: capabilities are left", unix.EPERM)
	}
	return wrap("capget", err)
}
