package socktest

import (
	"errors"

	"golang.org/x/sys/unix"

	"github.com/sockwatch/sockwatch/internal/sys"
)

// directory is one that is watched.
type directory struct {
	path  string
	below int  // so many levels of directories that are made in it are watched, too
	own   bool // the test process made it, or one above it
}

// entry is a name that was made in a directory, or moved there.
type entry struct {
	dir   *directory
	name  string
	isDir bool
	maker int // pid of who did it; 0 where that is not known, or may not be
}

// source tells what names appear in directories. It is fanotify where that is possible: also to the unprivileged it tells
// apart what the reading process has done itself and what others have, who have the pid 0 then (copy_event_to_user in
// fs/notify/fanotify/fanotify_user.c). With CAP_SYS_ADMIN it names everybody. Else it is inotify.
type source struct {
	fanotify, inotify int
	marks             map[string]*directory
	watches           map[int32]*directory
	buf               []byte
}

const (
	fanotifyMask = unix.FAN_CREATE | unix.FAN_MOVED_TO | unix.FAN_ONDIR
	inotifyMask  = unix.IN_CREATE | unix.IN_MOVED_TO

	mostDirectories = 4096
)

var errTooMany = errors.New("there are too many directories to watch them all")

func newSource(inotifyOnly bool) (*source, error) {
	s := &source{fanotify: -1, inotify: -1, marks: map[string]*directory{}, watches: map[int32]*directory{}, buf: make([]byte, 16<<10)}
	if !inotifyOnly {
		// Without FAN_REPORT_PIDFD, which is for the privileged alone: not sys.FanotifyInit.
		fd, err := unix.FanotifyInit(
			unix.FAN_CLASS_NOTIF|unix.FAN_CLOEXEC|unix.FAN_NONBLOCK|unix.FAN_REPORT_DFID_NAME, unix.O_RDONLY|unix.O_CLOEXEC)
		if err == nil {
			s.fanotify = fd
		}
	}
	fd, err := sys.InotifyInit()
	if err == nil {
		s.inotify = fd
	}
	if len(s.fds()) == 0 {
		return nil, err
	}
	return s, nil
}

func (s *source) close() {
	for _, fd := range s.fds() {
		_ = sys.Close(fd)
	}
}

// fds are the descriptors to poll.
func (s *source) fds() (fds []int) {
	for _, fd := range []int{s.fanotify, s.inotify} {
		if fd >= 0 {
			fds = append(fds, fd)
		}
	}
	return fds
}

// watch begins to watch a directory. It is nil if it is watched already, to that depth.
func (s *source) watch(path string, below int, own bool) (*directory, error) {
	if len(s.marks)+len(s.watches) >= mostDirectories {
		return nil, errTooMany
	}
	d := &directory{path: path, below: below, own: own}
	handle, err := s.mark(path)
	if err == nil {
		if known := s.marks[handle]; known != nil {
			return known.extend(d), nil
		}
		s.marks[handle] = d
		return d, nil
	}
	if s.inotify < 0 {
		return nil, err
	}
	wd, err := sys.InotifyAdd(s.inotify, path, inotifyMask)
	if err != nil {
		return nil, err
	}
	if known := s.watches[wd]; known != nil {
		return known.extend(d), nil
	}
	s.watches[wd] = d
	return d, nil
}

// extend has a directory watched as another one, which is the same.
func (d *directory) extend(o *directory) *directory {
	d.own = d.own || o.own
	if d.below >= o.below {
		return nil
	}
	d.path, d.below = o.path, o.below
	return d
}

// mark marks a directory for fanotify. The mark needs no descriptor of it, and goes with the directory.
func (s *source) mark(path string) (handle string, err error) {
	if s.fanotify < 0 {
		return "", errors.ErrUnsupported
	}
	fd, err := sys.OpenDir(unix.AT_FDCWD, path)
	if err != nil {
		return "", err
	}
	defer func() { _ = sys.Close(fd) }()
	if handle, err = sys.DirHandle(fd); err != nil {
		return "", err
	}
	return handle, sys.FanotifyAdd(s.fanotify, fanotifyMask, fd)
}

// all are the directories that are watched.
func (s *source) all() (all []*directory) {
	for _, d := range s.marks {
		all = append(all, d)
	}
	for _, d := range s.watches {
		all = append(all, d)
	}
	return all
}

// read gives all that is queued, the last of each name: they have all happened. lost: there was more than the kernel could keep.
func (s *source) read() (entries []entry, lost bool, err error) {
	if s.fanotify >= 0 {
		var events []sys.FanotifyEvent
		for more := true; more && err == nil; {
			events, more, err = sys.FanotifyRead(s.fanotify, s.buf, events)
		}
		for _, e := range events {
			lost = lost || e.Mask&unix.FAN_Q_OVERFLOW != 0
			if d := s.marks[e.Dir]; d != nil {
				entries = append(entries, entry{d, e.Name, e.Mask&unix.FAN_ONDIR != 0, e.PID})
			}
		}
	}
	if s.inotify >= 0 && err == nil {
		var events []sys.InotifyEvent
		for more := true; more && err == nil; {
			events, more, err = sys.InotifyRead(s.inotify, s.buf, events)
		}
		for _, e := range events {
			lost = lost || e.Mask&unix.IN_Q_OVERFLOW != 0
			d := s.watches[e.Watch]
			if e.Mask&unix.IN_IGNORED != 0 {
				delete(s.watches, e.Watch)
			} else if d != nil {
				entries = append(entries, entry{d, e.Name, e.Mask&unix.IN_ISDIR != 0, 0})
			}
		}
	}
	return lastOfEach(entries), lost, err
}

func lastOfEach(entries []entry) []entry {
	type key struct {
		dir  *directory
		name string
	}
	last := make(map[key]int, len(entries))
	for i, e := range entries {
		last[key{e.dir, e.name}] = i
	}
	kept := entries[:0]
	for i, e := range entries {
		if last[key{e.dir, e.name}] == i {
			kept = append(kept, e)
		}
	}
	return kept
}
