package tracing

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"strings"

	"github.com/sockwatch/sockwatch/ebpf"
	"github.com/sockwatch/sockwatch/pidfd"
	"github.com/sockwatch/sockwatch/reap"
)

// sockets are those that are bound now, by their inode numbers.
func (s *Source) sockets() map[uint32]ebpf.Socket {
	sockets, err := ebpf.Scan()
	if err != nil {
		s.o.Log.Info().Err(err).Msg("not all sockets that are bound are seen")
	}
	bySocket := make(map[uint32]ebpf.Socket, len(sockets))
	for _, b := range sockets {
		bySocket[b.Inode] = b
	}
	return bySocket
}

// scanLost claims what is there now of what was lost. The error is that of scan.
func (s *Source) scanLost() error {
	if err := s.lost.Err(); err != nil {
		return err
	}
	s.told.scanBegins()
	defer s.told.scanEnds()
	return s.scan(s.lost, s.sockets(), true)
}

// scan claims the sock-files of sockets, each for the oldest process that has the socket: of a server and those that it has forked, the
// server. With lost, who wants to know of binds is told of those that were not claimed. The error is that of ctx.
func (s *Source) scan(ctx context.Context, sockets map[uint32]ebpf.Socket, lost bool) error {
	for pid, held := range holders(ctx, sockets) {
		if err := ctx.Err(); err != nil {
			return err
		}
		s.scanProcess(pid, held, lost)
	}
	return ctx.Err()
}

// holders finds out which processes have sockets: for each of those that have one before all others, which ones. When ctx ends it is not
// done.
func holders(ctx context.Context, bySocket map[uint32]ebpf.Socket) map[int][]ebpf.Socket {
	type process struct {
		pid     int
		started uint64
	}
	oldest := map[uint32]process{}
	for pid, err := range procfs.PIDs() {
		if err != nil || ctx.Err() != nil {
			break
		}
		if pid == os.Getpid() {
			continue
		}
		stat, err := procfs.Stat(pid)
		if err != nil {
			continue // it is gone
		}
		for held, err := range procfs.Sockets(pid) {
			if err != nil {
				break // the same, or it may not be looked at
			}
			if _, ok := bySocket[held.Inode]; !ok {
				continue
			}
			if other, ok := oldest[held.Inode]; !ok || stat.StartTime < other.started {
				oldest[held.Inode] = process{pid, stat.StartTime}
			}
		}
	}
	byPID := map[int][]ebpf.Socket{}
	for inode, p := range oldest {
		byPID[p.pid] = append(byPID[p.pid], bySocket[inode])
	}
	return byPID
}

// scanProcess claims those of some sockets for a process that it has.
func (s *Source) scanProcess(pid int, sockets []ebpf.Socket, lost bool) {
	p, err := pidfd.Open(pid)
	if err != nil {
		return // it is gone
	}
	defer p.Close()
	id, err := p.Identity()
	if err != nil {
		return
	}
	info, err := p.Info()
	if err != nil {
		return
	}
	files, err := reap.Held(p)
	if err != nil && !errors.Is(err, pidfd.ErrExited) && !errors.Is(err, fs.ErrNotExist) {
		s.o.Log.Info().Err(err).Int("pid", pid).Msg("not all sock-files of a process are seen")
	}
	for _, f := range files {
		b, ok := socketOf(f, sockets)
		if !ok {
			_ = f.Close()
			continue
		}
		e := ebpf.Event{
			Kind: ebpf.KindBound, Owner: id, UID: info.UID, EUID: info.EUID, Comm: info.Comm,
			Socket: uint64(b.Inode), Dev: f.ID().Dev(), Inode: f.ID().Inode(), Path: seenBy(pid, f.Path()), RawPath: b.RawPath,
		}
		if s.o.Wanted != nil && !s.o.Wanted(e) {
			_ = f.Close()
			continue
		}
		mine, err := s.again(f)
		_ = f.Close()
		if err != nil {
			s.o.Log.Debug().Err(err).Int("pid", pid).Msg("a sock-file that is bound is not claimed")
			continue
		}
		if s.claim(e, mine) && lost {
			s.tell(e)
		}
	}
}

// seenBy is a path of reap.Held as the process knows it, as the path of an event is.
func seenBy(pid int, path string) string {
	if root, below := splitRoot(path); root != "" {
		return below
	}
	root, err := os.Readlink(rootOf(pid))
	if below, ok := strings.CutPrefix(path, root+"/"); err == nil && ok && root != "/" {
		return "/" + below
	}
	return path
}

// socketOf gives that of some sockets whose sock-file it is.
func socketOf(f *reap.File, sockets []ebpf.Socket) (ebpf.Socket, bool) {
	for _, b := range sockets {
		if b.FileInode == uint32(f.ID().Inode()) {
			return b, true
		}
	}
	return ebpf.Socket{}, false
}
