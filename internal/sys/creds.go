package sys

import (
	"errors"
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The credentials here are those of the calling thread alone: to the kernel they are a thread's own, and what changes them
// for a process is the C library and the functions of package syscall that go by all threads. So the calls are raw, and who
// changes anything must have locked the thread: runtime.LockOSThread.

// SetThreadGroups gives the thread these supplementary groups and no others: setgroups(2). It needs CAP_SETGID.
func SetThreadGroups(groups []uint32) error {
	return call("setgroups", func() error {
		// A nil pointer is fine for none.
		_, _, errno := unix.RawSyscall(unix.SYS_SETGROUPS, uintptr(len(groups)), uintptr(unsafe.Pointer(unsafe.SliceData(groups))), 0)
		return orNil(errno)
	})
}

// ThreadGroups reads the supplementary groups, which the kernel keeps in ascending order: getgroups(2).
func ThreadGroups() ([]uint32, error) {
	const few, most = 32, 65536 // NGROUPS_MAX of linux/limits.h
	for size := few; ; size = most {
		groups := make([]uint32, size)
		n, err := callInt("getgroups", func() (int, error) {
			n, _, errno := unix.RawSyscall(unix.SYS_GETGROUPS, uintptr(size), uintptr(unsafe.Pointer(&groups[0])), 0)
			return int(n), orNil(errno)
		})
		switch {
		case errors.Is(err, unix.EINVAL) && size < most:
			continue
		case err != nil:
			return nil, err
		}
		return groups[:n], nil
	}
}

// SetThreadFSGID gives the thread the group that its accesses to files are made with: setfsgid(2). The kernel does not tell that
// it refused, so the group is read back: EPERM where it is another. It needs CAP_SETGID, but for a group that is the real,
// effective or saved one.
func SetThreadFSGID(gid uint32) error {
	if _, err := setfsgid(int(gid)); err != nil {
		return err // by a seccomp filter
	}
	now, err := FSGID()
	if err == nil && now != gid {
		return wrap("setfsgid", fmt.Errorf("%w: the group is %d", unix.EPERM, now))
	}
	return err
}

// FSGID is the group that the kernel takes the calling thread for where files are concerned, as FSUID is the user: setfsgid(2).
func FSGID() (uint32, error) {
	gid, err := setfsgid(-1)
	return uint32(gid), err
}

func setfsgid(gid int) (before int, err error) {
	return callInt("setfsgid", func() (int, error) { return unix.SetfsgidRetGid(gid) })
}

// SetThreadFSUID gives the thread the user that its accesses to files are made with, as SetThreadFSGID does the group: setfsuid(2).
// Signals and ptrace(2) go by the other ids of the thread, so it is not at that user's mercy. It needs CAP_SETUID, but for a user that
// is the real, effective or saved one. From 0 to another one, CAP_FOWNER and its like leave the effective set, and come back
// from the permitted one with 0: capabilities(7).
func SetThreadFSUID(uid uint32) error {
	if _, err := setfsuid(int(uid)); err != nil {
		return err
	}
	now, err := FSUID()
	if err == nil && now != uid {
		return wrap("setfsuid", fmt.Errorf("%w: the user is %d", unix.EPERM, now))
	}
	return err
}

// Capabilities are three of a thread's sets: capabilities(7). The bits are numbered as in linux/capability.h.
type Capabilities struct{ Effective, Permitted, Inheritable uint64 }

// ThreadCapabilities reads the thread's: capget(2).
func ThreadCapabilities() (Capabilities, error) {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var d [2]unix.CapUserData
	err := call("capget", func() error { return capabilities(unix.SYS_CAPGET, &header, &d[0]) })
	both := func(low, high uint32) uint64 { return uint64(high)<<32 | uint64(low) }
	return Capabilities{
		Effective:   both(d[0].Effective, d[1].Effective),
		Permitted:   both(d[0].Permitted, d[1].Permitted),
		Inheritable: both(d[0].Inheritable, d[1].Inheritable),
	}, err
}

// capabilities is one of the two calls, which never block: nobody is to be given the processor meanwhile.
func capabilities(trap uintptr, header *unix.CapUserHeader, d *unix.CapUserData) error {
	_, _, errno := unix.RawSyscall(trap, uintptr(unsafe.Pointer(header)), uintptr(unsafe.Pointer(d)), 0)
	return orNil(errno)
}

// SetThreadCapabilities gives the thread these and reads them back: capset(2). What is permitted can be made effective at any time, and
// is lost for good when it is no longer permitted.
func SetThreadCapabilities(c Capabilities) error {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var d [2]unix.CapUserData
	for i := range d {
		shift := 32 * i
		d[i] = unix.CapUserData{
			Effective: uint32(c.Effective >> shift), Permitted: uint32(c.Permitted >> shift), Inheritable: uint32(c.Inheritable >> shift),
		}
	}
	if err := call("capset", func() error { return capabilities(unix.SYS_CAPSET, &header, &d[0]) }); err != nil {
		return err
	}
	now, err := ThreadCapabilities()
	if err == nil && now != c {
		err = wrap("capset", fmt.Errorf("%w: the capabilities are %x", unix.EPERM, now))
	}
	return err
}
