package reap

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strconv"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/sockwatch/sockwatch/internal/testutil"
)

// Tests that change what the kernel shows or allows to a thread. Credentials, mount namespaces and seccomp filters belong
// to a thread, so such a test runs on one of its own, which ends with it. What needs a process of its own is a helper.

func init() {
	// Bind the first thread to the first goroutine, which runs no test: that thread cannot end, and is what
	// /proc/self tells about.
	runtime.LockOSThread()
}

// onThread runs a subtest on a thread of its own. The directory it may use is cleared away by another thread, which
// does not see its mounts.
func onThread(t *testing.T, name string, f func(t *testing.T, dir string)) {
	t.Helper()
	dir := testutil.TempDir(t)
	t.Run(name, func(t *testing.T) {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		f(t, dir)
	})
}

// unshareMounts gives the thread a mount namespace in which it may mount what it likes.
func unshareMounts(t *testing.T) {
	t.Helper()
	testutil.Require(t, testutil.Root, testutil.Overlay)
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		t.Fatal(os.NewSyscallError("unshare", err))
	}
	mount(t, "", "/", "", unix.MS_REC|unix.MS_PRIVATE, "")
}

func mount(t *testing.T, source, target, kind string, flags uintptr, data string) {
	t.Helper()
	if err := unix.Mount(source, target, kind, flags, data); err != nil {
		t.Fatalf("mount %s at %s: %v", kind, target, err)
	}
}

// mountReadOnly makes a mount of the directory at itself and forbids writing through it.
func mountReadOnly(t *testing.T, dir string) {
	t.Helper()
	mount(t, dir, dir, "", unix.MS_BIND, "")
	mount(t, "", dir, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, "")
}

// mountExt4 makes a filesystem of its own of size KiB.
func mountExt4(t *testing.T, dir string, size int, options ...string) {
	t.Helper()
	testutil.Require(t, testutil.Program("mkfs.ext4"), testutil.Program("mount"))
	image := dir + ".img"
	t.Cleanup(func() { os.Remove(image) })
	run(t, "mkfs.ext4", slices.Concat([]string{"-q", "-b", "1024", "-m", "0"}, options, []string{image, strconv.Itoa(size)})...)
	run(t, "mount", "-o", "loop", image, dir)
}

func run(t *testing.T, name string, args ...string) {
	t.Helper()
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s %q: %v\n%s", name, args, err, out)
	}
}

const (
	nobody   = 65534
	somebody = 65533 // another user without privileges
)

// become changes the thread's user and group, and drops the rest.
func become(t *testing.T, uid int) {
	t.Helper()
	testutil.Require(t, testutil.Root)
	// By Syscall, because the functions of these names change every thread.
	for _, call := range [][4]uintptr{
		{unix.SYS_SETGROUPS, 0, 0, 0},
		{unix.SYS_SETRESGID, uintptr(uid), uintptr(uid), uintptr(uid)},
		{unix.SYS_SETRESUID, uintptr(uid), uintptr(uid), uintptr(uid)},
	} {
		if _, _, errno := unix.RawSyscall(call[0], call[1], call[2], call[3]); errno != 0 {
			t.Fatalf("become user %d: call %d: %v", uid, call[0], errno)
		}
	}
}

// keepCapabilities drops all of the thread's capabilities but these.
func keepCapabilities(t *testing.T, keep ...int) {
	t.Helper()
	testutil.Require(t, testutil.Root)
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	for _, c := range keep {
		data[c/32].Effective |= 1 << (c % 32)
		data[c/32].Permitted |= 1 << (c % 32)
	}
	if err := unix.Capset(&header, &data[0]); err != nil {
		t.Fatal(os.NewSyscallError("capset", err))
	}
}

// call is a system call that a thread is about to make.
type call struct {
	nr   uintptr
	args [6]uint64
}

// name gives the file name in an argument.
func (c call) name(arg int) string {
	mem, err := os.Open("/proc/self/mem")
	if err != nil {
		panic(err)
	}
	defer mem.Close()
	buf := make([]byte, unix.NAME_MAX+1)
	n, _ := mem.ReadAt(buf, int64(c.args[arg]))
	if end := bytes.IndexByte(buf[:n], 0); end >= 0 {
		return string(buf[:end])
	}
	panic("no file name there")
}

// sysFstatat is newfstatat or fstatat, which x/sys names after the architecture.
var sysFstatat = map[string]uintptr{"amd64": 262, "arm64": 79}[runtime.GOARCH]

// removalCalls are those calls of a removal that look at the filesystem or change it.
var removalCalls = []uintptr{
	unix.SYS_OPENAT, sysFstatat, unix.SYS_NAME_TO_HANDLE_AT, unix.SYS_CONNECT, unix.SYS_UNLINKAT, unix.SYS_RENAMEAT2,
	unix.SYS_RENAMEAT, unix.SYS_LINKAT, unix.SYS_GETDENTS64,
}

// intercept stops the calling thread before each of these calls from now on and asks before, on another thread, what is to
// happen: 0 lets the kernel do the call, an errno is what the call then gives instead. The thread must be locked, and
// after end it must make no such call any more. By SECCOMP_RET_USER_NOTIF, seccomp_unotify(2), Linux 5.5.
func intercept(calls []uintptr, before func(call) unix.Errno) (end func() error, err error) {
	// Load the number, compare with each: ask or allow.
	filter := []unix.SockFilter{{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: 0}}
	for i, nr := range calls {
		filter = append(filter, unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jt: uint8(len(calls) - i), K: uint32(nr)})
	}
	filter = append(
		filter,
		unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: 0x7fff0000}, // SECCOMP_RET_ALLOW
		unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: 0x7fc00000}, // SECCOMP_RET_USER_NOTIF
	)
	program := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return nil, os.NewSyscallError("prctl", err)
	}
	stop, err := unix.Eventfd(0, unix.EFD_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("eventfd", err)
	}
	// Once a call is told, no signal takes the thread out of it, and Go's runtime sends some: Linux 5.19.
	const setModeFilter, newListener, waitKillable = 1, 1 << 3, 1 << 5
	listener, _, errno := unix.Syscall(unix.SYS_SECCOMP, setModeFilter, newListener|waitKillable, uintptr(unsafe.Pointer(&program)))
	if errno == unix.EINVAL {
		listener, _, errno = unix.Syscall(unix.SYS_SECCOMP, setModeFilter, newListener, uintptr(unsafe.Pointer(&program)))
	}
	if errno != 0 {
		unix.Close(stop)
		return nil, os.NewSyscallError("seccomp", errno)
	}
	done := make(chan error)
	go func() { done <- supervise(int(listener), stop, before) }()
	return func() error {
		one := [8]byte{1}
		_, err := unix.Write(stop, one[:])
		err = errors.Join(err, <-done)
		unix.Close(stop)
		return err
	}, nil
}

// intercepted runs f on a thread of its own under intercept with the calls of a removal.
func intercepted(t *testing.T, before func(call) unix.Errno, f func()) {
	t.Helper()
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the filter stays for the thread's life
		end, err := intercept(removalCalls, before)
		if err == nil {
			f()
			err = end()
		}
		done <- err
	}()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// seccompNotif and seccompNotifResp are the structs of these names of seccomp.h.
type (
	seccompNotif struct {
		id         uint64
		pid, flags uint32
		nr         int32
		arch       uint32
		ip         uint64
		args       [6]uint64
	}
	seccompNotifResp struct {
		id    uint64
		val   int64
		error int32
		flags uint32
	}
)

// supervise answers the notifications of a seccomp listener until stop is readable. seccomp_unotify(2).
func supervise(listener, stop int, before func(call) unix.Errno) error {
	defer unix.Close(listener)
	answered := map[uint64]bool{}
	const (
		notifRecv = 0xc0502100
		notifSend = 0xc0182101
		goOn      = 1 // SECCOMP_USER_NOTIF_FLAG_CONTINUE
	)
	for {
		fds := []unix.PollFd{{Fd: int32(stop), Events: unix.POLLIN}, {Fd: int32(listener), Events: unix.POLLIN}}
		if _, err := unix.Poll(fds, -1); err != nil && err != unix.EINTR {
			return os.NewSyscallError("poll", err)
		}
		if fds[0].Revents != 0 {
			return nil
		}
		if fds[1].Revents&unix.POLLIN == 0 {
			continue
		}
		var request seccompNotif // the kernel wants it empty
		if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(listener), notifRecv, uintptr(unsafe.Pointer(&request))); errno != 0 {
			if errno == unix.EINTR || errno == unix.ENOENT {
				continue
			}
			return os.NewSyscallError("SECCOMP_IOCTL_NOTIF_RECV", errno)
		}
		if answered[request.id] {
			return fmt.Errorf("call %d came twice", request.nr)
		}
		answered[request.id] = true
		errno := before(call{uintptr(request.nr), request.args})
		response := seccompNotifResp{id: request.id, error: -int32(errno)}
		if errno == 0 {
			response.flags = goOn
		}
		if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(listener), notifSend, uintptr(unsafe.Pointer(&response))); errno != 0 && errno != unix.EINTR {
			// ENOENT: a signal took the thread out of the call, and it would come again with before run twice.
			return os.NewSyscallError("SECCOMP_IOCTL_NOTIF_SEND", errno)
		}
	}
}
