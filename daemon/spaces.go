package daemon

import (
	"os"
	"sync"
	"syscall"
	"time"

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
	again   *time.Timer             // for those that the kernel could not watch; nil when there are none
	step    int
	closed  bool
}

// set watches these bindspaces, and no others any more.
func (s *spaces) set(wanted []config.Bindspace) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return
	}
	retry := false
	keep := map[string]*watch.Owner{}
	for _, b := range wanted {
		if o := s.watched[b.Path]; o != nil {
			keep[b.Path] = o
			continue
		}
		o, err := s.d.watcher.AddBindspace(b.Path, b.Sweep, s.open)
		if err != nil {
			s.d.log.Error().Err(err).Str("bindspace", b.Path).Bool("again", wanting(err)).Msg("watch a bindspace of the configuration")
			retry = retry || wanting(err)
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
	s.retry(retry)
}

// retry has it tried again what could not be watched. The caller holds s.mu.
func (s *spaces) retry(is bool) {
	if s.again != nil {
		s.again.Stop()
		s.again = nil
	}
	if !is {
		s.step = 0
		return
	}
	s.again = time.AfterFunc(backoff(s.step), func() { s.set(s.d.config.Load().Bindspaces) })
	s.step++
}

// close ends the retrying. The watcher ends the rest.
func (s *spaces) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	s.retry(false)
}

// open opens a file of a bindspace with the rights of the directory's owner.
func (s *spaces) open(path string) (*reap.File, error) {
	u, err := dirUser("", parent(path))
	if err != nil {
		return nil, err
	}
	return s.d.root.open(s.d.as(u), path)
}

// dirUser is the user whose directory it is, below a root directory: of all on the way to it the first one that is not root, who could
// have it lead anywhere.
func dirUser(root, dir string) (asuser.User, error) {
	for i := 1; i <= len(dir); i++ {
		if i < len(dir) && dir[i] != '/' {
			continue
		}
		info, err := os.Lstat(root + dir[:i])
		if err != nil {
			return asuser.User{}, err
		}
		if stat, ok := info.Sys().(*syscall.Stat_t); ok && stat.Uid != 0 {
			return asuser.User{UID: stat.Uid, GID: stat.Gid}, nil
		}
	}
	return asuser.User{}, nil
}

func parent(path string) string {
	for i := len(path) - 1; i >= 0; i-- {
		if path[i] == '/' {
			return path[:i+1]
		}
	}
	return "."
}
