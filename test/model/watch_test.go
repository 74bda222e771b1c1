package model

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"pgregory.net/rapid"

	"github.com/sockwatch/sockwatch/pidfd"
	"github.com/sockwatch/sockwatch/reap"
	"github.com/sockwatch/sockwatch/watch"
)

// TestWatch has package watch remove what dies.
func TestWatch(t *testing.T) {
	s := newSetting(t)
	s.strong = s.root
	atMost(t, "25")
	rapid.Check(t, func(t *rapid.T) {
		serve := func(m *machine) service { return newWatcher(m) }
		if err := s.try(t, serve, func(*machine) map[string]func() { return nil }); err != nil {
			t.Fatal(err)
		}
	})
}

// watcher is a Watcher in our own process.
type watcher struct {
	m       *machine
	w       *watch.Watcher
	events  *watch.Subscription
	changed chan struct{}
	owners  map[*process]*watch.Owner
	address string

	mu     sync.Mutex
	logged []string
}

func newWatcher(m *machine) *watcher {
	s := &watcher{m: m, changed: make(chan struct{}, 1), owners: map[*process]*watch.Owner{}}
	var err error
	s.w, err = watch.New(watch.Options{Log: zerolog.New(s), Policy: watch.Policy{Changed: func(*watch.Owner) {
		select {
		case s.changed <- struct{}{}:
		default:
		}
	}}})
	m.must(err)
	s.events = s.w.Subscribe(1 << 12)
	s.address, err = s.w.Notify()
	m.must(err)
	_, err = s.w.AddBindspace(m.path(space), true, nil)
	m.must(err)
	return s
}

// Write is for what is logged without a level.
func (s *watcher) Write(b []byte) (int, error) { return len(b), nil }

// WriteLevel keeps the errors that are logged.
func (s *watcher) WriteLevel(l zerolog.Level, b []byte) (int, error) {
	if l >= zerolog.ErrorLevel {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.logged = append(s.logged, string(b))
	}
	return len(b), nil
}

func (s *watcher) troubles() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.logged)
}

func (s *watcher) notify() string     { return s.address }
func (s *watcher) up() bool           { return true }
func (s *watcher) revive()            {}
func (s *watcher) keepsReports() bool { return true }

func (s *watcher) takesSpaces(*process) bool { return true }

func (s *watcher) watch(p *process, paths, spaces []string) bool {
	handle, err := pidfd.Open(p.pid)
	s.m.must(err)
	owner, err := s.w.Add(handle, watch.OwnerOptions{Paths: paths, Bindspaces: spaces})
	if err != nil {
		handle.Close()
		s.m.Fatal(err)
	}
	s.owners[p] = owner
	return false
}

func (s *watcher) claim(p *process, path string) {
	_, err := s.owners[p].Claim(path, watch.SourceExplicit)
	s.m.must(err)
}

func (s *watcher) snapshot(p *process) {
	if _, err := s.owners[p].Snapshot(); err != nil {
		s.m.Logf("snapshot: %v", err)
	}
}

// identity is that of a file, by one of its names.
func identity(m *machine, f *file) (id reap.ID, ok bool) {
	for name := range f.names {
		opened, err := reap.Open(m.path(name))
		if err != nil {
			continue
		}
		id := opened.ID()
		opened.Close()
		if id.Inode() == f.ino {
			return id, true
		}
	}
	return id, false
}

func (s *watcher) known(f *file) bool {
	id, ok := identity(s.m, f)
	return ok && slices.ContainsFunc(s.w.Owners(), func(o *watch.Owner) bool {
		return slices.ContainsFunc(o.Claims(), func(c *watch.Claim) bool {
			state := c.State()
			return state.Open && state.Identified && state.File == id
		})
	})
}

func (s *watcher) await(done func() bool) bool {
	timeout := time.NewTimer(s.m.patience())
	defer timeout.Stop()
	for !done() {
		select {
		case <-s.changed:
		case <-s.events.C():
		case <-timeout.C:
			return done()
		}
	}
	return true
}

func (s *watcher) settled(p *process) {
	select {
	case <-s.owners[p].Settled():
	case <-time.After(s.m.patience()):
		s.m.wrongly("%s is dead, and what is claimed for it is not settled", p)
	}
}

func (s *watcher) describe() string {
	var b strings.Builder
	for _, o := range s.w.Owners() {
		fmt.Fprintf(&b, "owner %s:", o.Identity())
		for _, c := range o.Claims() {
			r, _ := c.Result()
			fmt.Fprintf(&b, " %+v %s %s;", c.State(), r.Outcome, r.Reason)
		}
		fmt.Fprintln(&b)
	}
	return b.String()
}

func (s *watcher) stop() error { return s.w.Close() }

func (s *watcher) close() { _ = s.w.Close() }
