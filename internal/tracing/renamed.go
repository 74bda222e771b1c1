package tracing

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"sync"

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

// openRenamed looks for an event's file in the directories to which leads lead. By the inode number alone, which is all there is: a file that
// is alive may be another process's, which was given the number again. So that is errPassedOn.
func (s *Source) openRenamed(e ebpf.Event, leads []lead) (*reap.File, error) {
	for _, l := range leads {
		names, err := sameInode(e, l)
		if err != nil {
			continue
		}
		for _, name := range names {
			f, err := s.openPath(e, lead{l.root, filepath.Join(filepath.Dir(l.path), name)})
			if err != nil {
				continue
			}
			if state, _ := f.Probe(); state == reap.StateDead {
				return f, nil
			}
			_ = f.Close()
			return nil, errPassedOn
		}
	}
	return nil, fmt.Errorf("%w: it has no other name there either", fs.ErrNotExist)
}

// sameInode lists the names in a lead's directory that can be of an event's file.
func sameInode(e ebpf.Event, l lead) (names []string, err error) {
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
	list, err := sys.OpenList(dir)
	if err != nil {
		return nil, err
	}
	defer func() { _ = sys.Close(list) }()
	kind, err := sys.FilesystemType(dir)
	if err != nil {
		return nil, err
	}
	merged := kind == unix.OVERLAYFS_SUPER_MAGIC // the number in the listing can be another than the one in stat(2)
	n := 0
	err = sys.ReadDir(list, func(d sys.Dirent) bool {
		n++
		name := string(d.Name)
		if d.Type != unix.DT_SOCK && d.Type != unix.DT_UNKNOWN || reap.IsPrivate(name) {
			return n < listMost
		}
		if merged {
			if st, err := sys.Lstatat(dir, name); err == nil {
				d.Ino = st.Ino
			}
		}
		if d.Ino == e.Inode {
			names = append(names, name)
		}
		return n < listMost
	})
	return names, err
}

// claimPassedOn claims the files of sockets that other processes have than the one that bound them, for that one. Who has them is found by
// looking at all processes.
func (s *Source) claimPassedOn(events []ebpf.Event) {
	if len(events) == 0 {
		return
	}
	sockets := map[uint32]ebpf.Socket{}
	for _, e := range events {
		sockets[uint32(e.Socket)] = ebpf.Socket{Inode: uint32(e.Socket)}
	}
	holder := map[uint32]int{}
	for pid, held := range holders(s.lost, sockets) {
		for _, b := range held {
			holder[b.Inode] = pid
		}
	}
	for _, e := range events {
		if s.lost.Err() != nil {
			return
		}
		f, err := s.openByHolder(e, holder[uint32(e.Socket)])
		if err != nil {
			s.unclaimed(e, err)
			continue
		}
		e.Via = 0 // what becomes of the socket is not told of, see claim
		s.claim(e, f)
	}
}

// openByHolder opens an event's file by another process than that which has bound it. pid is 0 where there is none.
func (s *Source) openByHolder(e ebpf.Event, pid int) (*reap.File, error) {
	if pid == 0 {
		return s.open(e) // it has died meanwhile, as has the file
	}
	p, err := pidfd.Open(pid)
	if err == nil {
		defer p.Close()
		var f *reap.File
		if f, err = s.openHeld(e, p); f != nil {
			return f, nil
		}
	}
	f, openErr := s.open(e)
	if openErr == nil {
		return f, nil
	}
	return nil, errors.Join(err, openErr)
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
