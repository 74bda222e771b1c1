package tracing

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sockwatch/sockwatch/ebpf"
	"github.com/sockwatch/sockwatch/internal/sys"
	"github.com/sockwatch/sockwatch/pidfd"
	"github.com/sockwatch/sockwatch/reap"
)

// A server may bind a name of the moment and give the file its own by rename(2), for it to be complete when it is seen. haproxy does, then it
// forks its workers, and executes itself again without the sockets, all before the event is read: the path leads nowhere by then, and
// the process of the event has nothing.

// errPassedOn is the error of a file that lives, under another name, by other processes.
var errPassedOn = errors.New("it has another name, and others have its socket")

// listMost bounds what is looked through for one event: events come faster than a large directory can be read.
const listMost = 1 << 14

// openRenamed looks for an event's file in the directories to which leads lead. By the inode number, which is given out again: so a dead file
// is not the one that is younger than the bind, and one that is alive may be another process's; that is errPassedOn.
func (s *Source) openRenamed(e ebpf.Event, leads []lead) (*reap.File, error) {
	look := listing{ino: e.Inode, seen: map[sys.DirID][]string{}}
	for _, l := range leads {
		names, err := look.names(l)
		if err != nil {
			continue
		}
		for _, name := range names {
			f, err := s.openPath(e, lead{l.root, filepath.Join(filepath.Dir(l.path), name)})
			if err != nil {
				continue
			}
			if state, _ := f.Probe(); state != reap.StateDead {
				_ = f.Close()
				return nil, errPassedOn
			}
			if !madeAfter(f, e.Time) {
				return f, nil
			}
			_ = f.Close()
		}
	}
	return nil, fmt.Errorf("%w: it has no other name there either", fs.ErrNotExist)
}

// madeAfter tells whether a file is known to be younger than that.
func madeAfter(f *reap.File, t time.Time) bool {
	born, err := f.Born()
	return err == nil && born.After(t)
}

// listing looks for the names of an inode, in each directory once.
type listing struct {
	ino  uint64
	seen map[sys.DirID][]string
	n    int
}

// names lists those in the directory of a lead.
func (look *listing) names(l lead) (names []string, err error) {
	if l.path == "" {
		return nil, fs.ErrNotExist
	}
	root := l.root
	if root == "" {
		root = "/"
	}
	at, err := sys.OpenDir(unix.AT_FDCWD, root)
	if err != nil {
		return nil, err
	}
	defer func() { _ = sys.Close(at) }()
	dir, err := sys.OpenDirIn(at, filepath.Dir(l.path))
	if err != nil {
		return nil, err
	}
	defer func() { _ = sys.Close(dir) }()
	id, err := sys.StatDir(dir)
	if err != nil {
		return nil, err
	}
	if names, seen := look.seen[id]; seen {
		return names, nil
	}
	kind, err := sys.FilesystemType(dir)
	if err != nil {
		return nil, err
	}
	list, err := sys.OpenList(dir)
	if err != nil {
		return nil, err
	}
	defer func() { _ = sys.Close(list) }()
	err = sys.ReadDir(list, func(d sys.Dirent) bool {
		look.n++
		name := string(d.Name)
		if d.Type != unix.DT_SOCK && d.Type != unix.DT_UNKNOWN || reap.IsPrivate(name) {
			return look.n < listMost
		}
		if kind == unix.OVERLAYFS_SUPER_MAGIC { // the number in the listing can be another than the one in stat(2)
			if st, err := sys.Lstatat(dir, name); err == nil {
				d.Ino = st.Ino
			}
		}
		if d.Ino == look.ino {
			names = append(names, name)
		}
		return look.n < listMost
	})
	look.seen[id] = names
	return names, err
}

// claimPassedOn claims the files of sockets that other processes have than the one that bound them, for that one. Who has them is found by
// looking at all processes. The error is that of scan.
func (s *Source) claimPassedOn(events []ebpf.Event) error {
	all, err := ebpf.Scan()
	bound := map[uint32]bool{}
	for _, b := range all {
		bound[b.Inode] = true
	}
	sockets := map[uint32]ebpf.Socket{}
	for _, e := range events {
		if inode := uint32(e.Socket); err != nil || bound[inode] { // else it has died meanwhile, and all processes need not be looked at
			sockets[inode] = ebpf.Socket{Inode: inode}
		}
	}
	byHolder := map[int][]ebpf.Event{}
	holder := map[uint32]int{}
	if len(sockets) > 0 {
		for pid, held := range holders(s.lost, sockets) {
			for _, b := range held {
				holder[b.Inode] = pid
			}
		}
	}
	for _, e := range events {
		pid := holder[uint32(e.Socket)]
		byHolder[pid] = append(byHolder[pid], e)
	}
	for pid, events := range byHolder {
		if err := s.lost.Err(); err != nil {
			return err
		}
		s.claimHeld(pid, events)
	}
	return nil
}

// claimHeld claims the files of events by another process than that which has bound them. pid is 0 where there is none.
func (s *Source) claimHeld(pid int, events []ebpf.Event) {
	var held []*reap.File
	var heldErr error
	if pid != 0 {
		p, err := pidfd.Open(pid)
		if err == nil {
			defer p.Close()
			held, err = reap.Held(p)
		}
		heldErr = err
	}
	for _, e := range events {
		f, err := s.openOf(e, held)
		if f == nil {
			var openErr error
			f, openErr = s.open(e) // it may have died meanwhile
			err = errors.Join(heldErr, err, openErr)
		}
		if f == nil {
			s.unclaimed(e, err)
			continue
		}
		e.Via = 0 // what becomes of the socket is not told of, see claim
		s.claim(e, f)
	}
	for _, f := range held {
		_ = f.Close()
	}
}

// backlog is what is to be looked for beside the reading of events. The zero value is ready.
type backlog struct {
	mu       sync.Mutex
	lost     bool // events were
	passedOn []ebpf.Event
}

// backlogMost bounds it: with more, everything is looked for.
const backlogMost = 1 << 12

func (b *backlog) addLost() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.lost = true
}

func (b *backlog) addPassedOn(e ebpf.Event) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.passedOn) == backlogMost {
		b.lost = true
		return
	}
	b.passedOn = append(b.passedOn, e)
}

func (b *backlog) take() (lost bool, passedOn []ebpf.Event) {
	b.mu.Lock()
	defer b.mu.Unlock()
	lost, passedOn = b.lost, b.passedOn
	b.lost, b.passedOn = false, nil
	return lost, passedOn
}
