package ebpf

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/sockwatch/sockwatch/internal/sockdiag"
)

// Socket is a socket that is bound to a sock-file, from the kernel's socket table. Whose it is the table does not tell.
type Socket struct {
	Inode     uint32 // the socket's own inode number, as in "socket:[N]"
	Type      int    // unix.SOCK_STREAM, unix.SOCK_DGRAM or unix.SOCK_SEQPACKET
	Listening bool
	UID       uint32 // of the user that made it: Linux 5.3
	NetNS     uint64 // inode number of its network namespace, as in /proc/PID/ns/net
	RawPath   string // the name that was given to bind(2), perhaps relative, perhaps in another mount namespace
	// Dev and FileInode are the sock-file's, Dev as in Event, FileInode cut to 32 bits: compare with uint32(st_ino).
	Dev       uint64
	FileInode uint32
}

// Scan returns the sockets that are bound to sock-files in the network namespaces of all processes and in those that
// ip-netns(8) keeps. A namespace that is known to nobody but a process that has left it, or to a thread other than the
// first of its process, is not seen.
//
// A socket that is bound all the time is there, but for the chance that the kernel's dumps miss it, which package sockdiag
// describes: each namespace is dumped twice. Accepted sockets are left out, where their listener is there.
//
// Sockets may come together with an error, which tells of namespaces that could not be seen: errors.Is finds fs.ErrPermission. Foreign
// ones need CAP_SYS_ADMIN, and PTRACE_MODE_READ of a process in them. Linux 3.3.
func Scan() ([]Socket, error) {
	namespaces, err := netNamespaces()
	errs := []error{err}
	var sockets []Socket
	// Its thread ends with it, so it need not find the way back.
	onOwnThread(func() {
		for _, ns := range namespaces {
			found, err := ns.scan()
			sockets = append(sockets, found...)
			if err != nil {
				errs = append(errs, fmt.Errorf("sockets of the network namespace %s: %w", ns.path, err))
			}
		}
	})
	for _, ns := range namespaces {
		_ = ns.file.Close()
	}
	return sockets, errors.Join(errs...)
}

// netNamespace is open, so that it stays.
type netNamespace struct {
	path  string // where it was found
	inode uint64
	file  *os.File
}

// netNamespaces opens each network namespace once.
func netNamespaces() ([]netNamespace, error) {
	var found []netNamespace
	var errs []error
	forbidden, forbade := 0, error(nil)
	known := map[uint64]bool{}
	add := func(path string) {
		info, err := os.Stat(path)
		if err == nil && known[inodeOf(info)] {
			return
		}
		var ns netNamespace
		if err == nil {
			ns, err = openNetNamespace(path)
		}
		switch {
		case errors.Is(err, fs.ErrNotExist), errors.Is(err, unix.ESRCH): // the process is gone
		case errors.Is(err, fs.ErrPermission):
			forbidden, forbade = forbidden+1, err
		case err != nil:
			errs = append(errs, err)
		case known[ns.inode]:
			_ = ns.file.Close()
		default:
			known[ns.inode] = true
			found = append(found, ns)
		}
	}
	for pid, err := range procfs.PIDs() {
		if err != nil {
			errs = append(errs, err)
			break
		}
		add("/proc/" + strconv.Itoa(pid) + "/ns/net")
	}
	kept, _ := filepath.Glob("/run/netns/*") // the pattern is well-formed
	for _, path := range kept {
		add(path)
	}
	if forbidden > 0 {
		errs = append(errs, fmt.Errorf("network namespaces of %d processes: %w", forbidden, forbade))
	}
	return found, errors.Join(errs...)
}

func openNetNamespace(path string) (netNamespace, error) {
	file, err := os.Open(path)
	if err != nil {
		return netNamespace{}, err
	}
	info, err := file.Stat()
	if err != nil {
		return netNamespace{}, errors.Join(err, file.Close())
	}
	return netNamespace{path, inodeOf(info), file}, nil
}

// scan leaves the thread in the namespace.
func (ns netNamespace) scan() ([]Socket, error) {
	own, err := os.Stat("/proc/thread-self/ns/net")
	if err != nil {
		return nil, err
	}
	if inodeOf(own) != ns.inode {
		if err := unix.Setns(int(ns.file.Fd()), unix.CLONE_NEWNET); err != nil {
			return nil, os.NewSyscallError("setns", err)
		}
	}
	conn, err := sockdiag.Dial()
	if err != nil {
		return nil, err
	}
	defer conn.Close()

	type file struct {
		dev, inode uint32
		name       string
	}
	var bound []sockdiag.Socket
	known := map[[2]uint32]bool{} // by cookie
	listening := map[file]bool{}
	for range 2 {
		for s, err := range conn.Dump() {
			if errors.Is(err, sockdiag.ErrInterrupted) {
				break
			}
			if err != nil {
				return nil, err
			}
			// One that is not accepted yet has no inode number.
			if s.VFSInode == 0 && s.VFSDev == 0 || s.Inode == 0 || known[s.Cookie] {
				continue
			}
			known[s.Cookie] = true
			bound = append(bound, s)
			if s.State == sockdiag.StateListen {
				listening[file{s.VFSDev, s.VFSInode, s.Name}] = true
			}
		}
	}
	sockets := make([]Socket, 0, len(bound))
	for _, s := range bound {
		connected := s.State == sockdiag.StateEstablished && s.Type != unix.SOCK_DGRAM
		if connected && listening[file{s.VFSDev, s.VFSInode, s.Name}] {
			continue
		}
		sockets = append(sockets, Socket{
			Inode: s.Inode, Type: s.Type, Listening: s.State == sockdiag.StateListen, UID: s.UID, NetNS: ns.inode,
			RawPath: s.Name, Dev: s.Dev(), FileInode: s.VFSInode,
		})
	}
	return sockets, nil
}

// onOwnThread has f run on an OS thread that ends with it: when a goroutine ends that is locked to its thread, the thread does.
func onOwnThread(f func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread()
		if unix.Gettid() != unix.Getpid() {
			f()
			return
		}
		// The first thread of the process cannot end, and is what /proc/PID tells about. Held here, it cannot be given to the next
		// goroutine.
		onOwnThread(f)
		runtime.UnlockOSThread()
	}()
	<-done
}
