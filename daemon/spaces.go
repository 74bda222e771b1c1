package daemon

import (
	"context"
	"os"
	"sync"
	"syscall"

	"github.com/sockwatch/sockwatch/internal/asuser"
	"github.com/sockwatch/sockwatch/internal/config"
	"github.com/sockwatch/sockwatch/reap"
	"github.com/sockwatch/sockwatch/watch"
)

// spaces are the bindspaces of the configuration.
type spaces struct {
	d *Daemon

	mu      sync.Mutex
	watched map[string]*watch.Owner // by path
}

// set watches these bindspaces, and no others any more.
func (s *spaces) set(wanted []config.Bindspace) {
	s.mu.Lock()
	defer s.mu.Unlock()
	keep := map[string]*watch.Owner{}
	for _, b := range wanted {
		if o := s.watched[b.Path]; o != nil {
			keep[b.Path] = o
			continue
		}
		if b.Sweep {
			s.sweep(b.Path)
		}
		o, err := s.d.watcher.AddBindspace(b.Path, s.open)
		if err != nil {
			s.d.log.Error().Err(err).Str("bindspace", b.Path).Msg("watch a bindspace of the configuration")
			continue
		}
		keep[b.Path] = o
	}
	for path, o := range s.watched {
		if keep[path] == nil {
			_ = o.Release()
		}
	}
	s.watched = keep
}

// sweep removes what is dead in a bindspace already.
func (s *spaces) sweep(dir string) {
	if _, err := os.Stat(dir); err != nil {
		return
	}
	for r := range reap.Sweep(context.Background(), reap.SweepOptions{DryRun: s.d.config.Load().DryRun}, dir) {
		level := s.d.log.Info()
		if !r.Outcome.OK() {
			level = s.d.log.Warn()
		}
		level.Err(r.Err).Str("path", r.Path).Stringer("outcome", r.Outcome).Str("reason", string(r.Reason)).Msg("sweep at start")
	}
}

// open opens a file of a bindspace with the rights of the directory's owner.
func (s *spaces) open(path string) (*reap.File, error) {
	f, err := reap.Open(path)
	if err != nil || os.Geteuid() != 0 {
		return f, err
	}
	info, err := os.Stat(parent(path))
	if err != nil {
		_ = f.Close()
		return nil, err
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok || stat.Uid == 0 {
		return f, nil
	}
	_ = f.Close()
	u := asuser.User{UID: stat.Uid, GID: stat.Gid}
	return reap.OpenAs(func(f func()) error { return s.d.users.Do(u, f) }, s.d.root, path)
}

func parent(path string) string {
	for i := len(path) - 1; i >= 0; i-- {
		if path[i] == '/' {
			return path[:i+1]
		}
	}
	return "."
}
