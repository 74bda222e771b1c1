package tracing

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/sockwatch/sockwatch/ebpf"
	"github.com/sockwatch/sockwatch/internal/proc"
	"github.com/sockwatch/sockwatch/pidfd"
	"github.com/sockwatch/sockwatch/reap"
)

var procfs proc.FS

// errOther is the error of a path that leads to another file than the one that was bound.
var errOther = errors.New("another file has the name now")

// openFile is Options.Open with our own rights.
func openFile(root, path string) (*reap.File, error) {
	if root == "" {
		return reap.Open(path)
	}
	return reap.OpenIn(root, path)
}

// open opens the sock-file of a bind: by its path, else by the socket that the process has, else by looking through the directory. Whatever
// a path leads to and whoever has the pid by now, what counts is that it is the inode of the event.
//
// errPassedOn: the file has another name and lives, but not by that process. Then claimPassedOn finds it.
func (s *Source) open(e ebpf.Event) (*reap.File, error) {
	p, err := e.Owner.Open()
	if errors.Is(err, pidfd.ErrExited) {
		return s.openOfGone(e)
	}
	if err != nil {
		return nil, err
	}
	defer p.Close()
	f, err := s.openPath(e, lead{rootFor(e), belowRoot(e)})
	if err == nil {
		return f, nil
	}
	if exited, _ := p.Exited(); exited { // it may have been a zombie, which has no root any more, from the beginning
		return s.openOfGone(e)
	}
	held, heldErr := reap.Held(p) // renamed since, or not to be reached by its path
	f, againErr := s.openOf(e, held)
	for _, h := range held {
		_ = h.Close()
	}
	if f != nil {
		return f, nil
	}
	leads := []lead{{rootFor(e), belowRoot(e)}}
	// What a thread has for itself may be gone with it.
	if own, nsErr := inOwnMounts(e); nsErr == nil && own {
		ours := lead{"", e.FullPath}
		if f, fullErr := s.openPath(e, ours); fullErr == nil {
			return f, nil
		}
		leads = append(leads, ours)
	}
	f, dirErr := s.openRenamed(e, leads)
	if dirErr == nil {
		return f, nil
	}
	return nil, errors.Join(err, heldErr, againErr, dirErr)
}

// openOf opens the event's file, if it is one of those that a process holds. Else it is nil.
func (s *Source) openOf(e ebpf.Event, held []*reap.File) (*reap.File, error) {
	for _, h := range held {
		if is(e, h) {
			return s.again(h)
		}
	}
	return nil, nil //nolint:nilnil // nothing went wrong
}

// rootFor is the root directory of an event's path, "" for ours. It is the thread's: unshare(2) gives that one of its own.
func rootFor(e ebpf.Event) string {
	for _, task := range []int{e.TID, e.Owner.PID} { // /proc has threads, too, and the thread may be gone
		if same, err := procfs.SameRoot(task); err == nil {
			if same {
				return ""
			}
			return rootOf(task)
		}
	}
	return ""
}

// openOfGone opens what a process has bound that is gone: by the path that the kernel saw, where that meant the same as to us, or in the
// process's mount namespace, if somebody is there.
func (s *Source) openOfGone(e ebpf.Event) (*reap.File, error) {
	leads, err := leadsOfGone(e)
	for _, l := range leads {
		var f *reap.File
		if f, err = s.openPath(e, l); err == nil {
			return f, nil
		}
	}
	if len(leads) == 0 {
		return nil, errors.Join(err, fmt.Errorf("%s: %w in the mount namespace of a process that is gone", e.Path, fs.ErrNotExist))
	}
	f, dirErr := s.openRenamed(e, leads)
	if dirErr == nil {
		return f, nil
	}
	return nil, errors.Join(err, dirErr)
}

// lead is a path to try below a root directory, "" for ours.
type lead struct{ root, path string }

func leadsOfGone(e ebpf.Event) ([]lead, error) {
	own, err := inOwnMounts(e)
	if err != nil {
		return nil, err
	}
	if own {
		return []lead{{"", e.FullPath}}, nil
	}
	var leads []lead
	for pid, err := range procfs.PIDs() {
		if err != nil {
			return nil, err
		}
		theirs, err := os.Stat("/proc/" + strconv.Itoa(pid) + "/ns/mnt")
		if err != nil || inode(theirs) != uint64(e.MountNS) {
			continue
		}
		leads = append(leads, lead{rootOf(pid), e.FullPath})
		if below := belowRoot(e); below != e.FullPath { // they may have the root directory in common
			leads = append(leads, lead{rootOf(pid), below})
		}
	}
	return leads, nil
}

// inOwnMounts tells whether a path means to us what it meant to who has bound.
func inOwnMounts(e ebpf.Event) (bool, error) {
	own, err := os.Stat("/proc/self/ns/mnt")
	return err == nil && inode(own) == uint64(e.MountNS), err
}

// belowRoot is the path from the process's root directory, "" where that leads not to the file.
func belowRoot(e ebpf.Event) string {
	if e.Truncated || e.Outside {
		return ""
	}
	return e.Path
}

func rootOf(pid int) string { return "/proc/" + strconv.Itoa(pid) + "/root" }

// openPath opens an event's file by a path.
func (s *Source) openPath(e ebpf.Event, l lead) (*reap.File, error) {
	if l.path == "" {
		return nil, fmt.Errorf("%s: %w: the kernel knows no path from the root directory", e.Path, fs.ErrNotExist)
	}
	f, err := s.o.Open(l.root, l.path)
	if err != nil {
		return nil, err
	}
	if !is(e, f) {
		_ = f.Close()
		return nil, fmt.Errorf("%s: %w", l.path, errOther)
	}
	return f, nil
}

// again opens a File that is ours the way that Options.Open does.
func (s *Source) again(held *reap.File) (*reap.File, error) {
	root, path := splitRoot(held.Path())
	f, err := s.o.Open(root, path)
	if err == nil && f.ID() != held.ID() {
		_ = f.Close()
		return nil, fmt.Errorf("%s: %w", held.Path(), errOther)
	}
	return f, err
}

// splitRoot takes apart the path of a file that only a process with another root directory reaches: see reap.Held.
func splitRoot(path string) (root, below string) {
	const proc, rootDir = "/proc/", "/root/"
	if rest, ok := strings.CutPrefix(path, proc); ok {
		pid, below, ok := strings.Cut(rest, rootDir)
		if _, err := strconv.Atoi(pid); ok && err == nil {
			return proc + pid + "/root", "/" + below
		}
	}
	return "", path
}

// is tells whether a file is the one that was bound. On btrfs, and on an overlayfs of several filesystems, the kernel knows the
// filesystem by another number than it tells.
func is(e ebpf.Event, f *reap.File) bool {
	if f.ID().Inode() != e.Inode {
		return false
	}
	if f.ID().Dev() == e.Dev {
		return true
	}
	var st unix.Statfs_t
	err := unix.Statfs(f.Path(), &st)
	return err == nil && (uint32(st.Type) == unix.BTRFS_SUPER_MAGIC || uint32(st.Type) == unix.OVERLAYFS_SUPER_MAGIC)
}

func inode(info fs.FileInfo) uint64 {
	return info.Sys().(*syscall.Stat_t).Ino // always that on Linux
}
