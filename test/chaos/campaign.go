package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sockwatch/sockwatch/internal/sys"
)

// plan says what is to happen.
type plan struct {
	daemon []string // the command that is a daemon
	env    []string // more for its environment
	dir    string   // where the sock-files are to be
	deaths int
	lanes  int // servers that come and go
	steady int // servers that stay to the end
}

// war is a campaign under way.
type war struct {
	plan
	executioner
	dirs map[how]string // of how sock-files become known, the bindspace apart

	ctx    context.Context // of all, until too much has failed
	enough func() bool

	deaths, heirs, closed, relied, losses atomic.Uint64

	mu    sync.Mutex
	errs  []error
	abort context.CancelFunc
}

// mostErrors is how many end a campaign.
const mostErrors = 10

func (w *war) fail(err error) {
	if strings.Contains(err.Error(), "LOST") {
		w.losses.Add(1)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.errs) < mostErrors {
		w.errs = append(w.errs, err)
		return
	}
	w.abort()
}

// campaign does it all and tells what came of it. When ctx ends it is cut short. What is left of a failure stays to be looked at.
func campaign(ctx context.Context, p plan) (r result, err error) {
	began := time.Now()
	base, err := os.MkdirTemp(p.dir, "sw")
	if err != nil {
		return r, err
	}
	home := base
	if shm, err := os.MkdirTemp("/dev/shm", "sw"); err == nil {
		home = shm
	}
	if err := sys.BecomeSubreaper(); err != nil { // heirs are ours, once their parents are dead
		return r, err
	}
	w := &war{plan: p, dirs: map[how]string{}}
	w.executioner = executioner{plan: p, run: filepath.Join(home, "run"), step: make(chan struct{})}
	for name, hows := range map[string][]how{"free": {watched, named, both, claimed, reported}, "space": {found}} {
		dir := filepath.Join(base, name)
		if err := os.Mkdir(dir, 0o755); err != nil {
			return r, err
		}
		for _, h := range hows {
			w.dirs[h] = dir
		}
	}
	config := fmt.Sprintf("log_level = \"warn\"\n[[bindspace]]\npath = %q\nsweep = true\n", w.dirs[found])
	if err := os.WriteFile(filepath.Join(home, "config"), []byte(config), 0o600); err != nil {
		return r, err
	}
	if err := w.fight(ctx); err != nil {
		w.errs = append(w.errs, err)
	}
	r = result{
		deaths: w.deaths.Load(), heirs: w.heirs.Load(), closed: w.closed.Load(), relied: w.relied.Load(), losses: w.losses.Load(),
		kills: w.kills, took: time.Since(began),
	}
	left := w.left()
	records, _ := filepath.Glob(filepath.Join(w.run, "owners", "*.json*"))
	r.left, r.records = len(left), len(records)
	if r.left+r.records > 0 {
		w.errs = append(w.errs, fmt.Errorf("left: %q, %q", left, records))
	}
	if len(w.errs) > 0 {
		return r, fmt.Errorf("%w (see %s and %s)", errors.Join(w.errs...), base, home)
	}
	return r, errors.Join(os.RemoveAll(base), os.RemoveAll(home))
}

// fight has servers and daemons live and die, and waits until there is nothing left of them. When ctx ends, that is enough of it.
func (w *war) fight(ctx context.Context) error {
	w.ctx, w.abort = context.WithCancel(context.Background())
	defer w.abort()
	w.enough = func() bool {
		return w.deaths.Load() >= uint64(w.plan.deaths) || ctx.Err() != nil || w.ctx.Err() != nil
	}
	killing, peace := context.WithCancel(context.Background())
	defer peace()
	var last *running
	var failed error
	var daemons, lanes, steady sync.WaitGroup
	daemons.Go(func() {
		if last, failed = w.work(killing); failed != nil {
			w.abort()
		}
	})
	over := make(chan struct{}) // for those that stay
	for n := range w.steady {
		l := w.lane(fmt.Sprintf("steady%d", n), n)
		steady.Go(func() { l.stay(over) })
	}
	for n := range w.lanes {
		l := w.lane(fmt.Sprintf("lane%d", n), n)
		lanes.Go(func() {
			for !w.enough() {
				l.live()
			}
			l.last()
		})
	}
	lanes.Wait()
	close(over)
	steady.Wait()
	peace()
	daemons.Wait()
	if failed != nil {
		return failed
	}
	err := until(func() (bool, error) {
		records, err := filepath.Glob(filepath.Join(w.run, "owners", "*.json*"))
		return len(records)+len(w.left()) == 0 || w.ctx.Err() != nil, errors.Join(err, last.over())
	})
	if errors.Is(err, errInVain) {
		err = nil // it is told what is left
	}
	return errors.Join(err, last.stop())
}

// left are the sock-files that are there.
func (w *war) left() (names []string) {
	seen := map[string]bool{}
	for _, dir := range w.dirs {
		if seen[dir] {
			continue
		}
		seen[dir] = true
		entries, _ := os.ReadDir(dir)
		for _, e := range entries {
			names = append(names, filepath.Join(dir, e.Name()))
		}
	}
	return names
}

// exists tells whether a path is there.
func exists(path string) (bool, error) {
	_, err := sys.Lstatat(unix.AT_FDCWD, path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}
