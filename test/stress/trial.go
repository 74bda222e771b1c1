package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sockwatch/sockwatch/internal/sys"
)

// A trial is one strategy on one filesystem, with claims that are made in one way.
type trial struct {
	place    place
	strategy strategy
	claims   claims

	// It ends after limit, or with so many removals or losses, where these are not 0.
	limit            time.Duration
	removals, losses uint64
}

const (
	shortLimit = 1800 * time.Millisecond
	// In the long form a control has this long for so many losses.
	controlLimit  = time.Minute
	controlLosses = 100
	// All trials of sockwatch in the long form together.
	longLimit = 20 * time.Minute
)

// trials are all those of the places.
func trials(places []place, long bool) (ts []trial) {
	own := uint64(2 * len(places)) // trials of sockwatch
	for _, p := range places {
		for _, t := range []trial{
			{strategy: checkThenUnlink, claims: seenAlive},
			{strategy: checkThenUnlink, claims: fromName},
			// A claim that was seen alive needs no barrier: there is nothing to leave out.
			{strategy: noBarrier, claims: fromName},
			{strategy: sockwatch, claims: seenAlive},
			{strategy: sockwatch, claims: fromName},
		} {
			t.place = p
			switch {
			case !long:
				t.limit = shortLimit
			case t.strategy.control:
				t.limit, t.losses = controlLimit, controlLosses
			default:
				t.limit, t.removals = longLimit/time.Duration(own), (million+own-1)/own
			}
			ts = append(ts, t)
		}
	}
	return ts
}

// run does the trial, with one lane for two processors: on one of them a server, on the other a remover.
func (t trial) run(ctx context.Context) (*tally, error) {
	dir, err := os.MkdirTemp(t.place.dir, "stress")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	stop, err := slowBinds(dir)
	if err != nil {
		return nil, err
	}
	defer stop()
	// A processor for each thread, or a thread that comes back from the kernel would have to wait for one.
	lanes := max(1, runtime.NumCPU()/2)
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(2*lanes + 2))

	r := new(tally)
	errs := make(chan error)
	thread := func(work func() error) {
		go func() {
			runtime.LockOSThread() // and never unlocked: the thread ends with the work
			err := sharpen()
			if err == nil {
				err = work()
			}
			r.over.Store(true)
			errs <- err
		}()
	}
	start := time.Now()
	ended := func() bool {
		return ctx.Err() != nil || time.Since(start) > t.limit ||
			(t.removals > 0 && r.removals.Load() >= t.removals) || (t.losses > 0 && r.losses.Load() >= t.losses)
	}
	for i := range lanes {
		l := &lane{path: filepath.Join(dir, fmt.Sprintf("server-%d.sock", i)), tally: r}
		thread(func() error { return l.serve(t.claims == seenAlive, ended) })
		thread(func() error { return l.remove(t.strategy, t.claims) })
	}
	for range 2 * lanes {
		err = errors.Join(err, <-errs)
	}
	return r, errors.Join(err, context.Cause(ctx))
}

// slowBinds makes the moment in which a sock-file is there and its socket is not yet bound some 25 µs long, until stop:
// bind(2) tells everybody who watches the directory of the new file just then. On its own it is over in less than one.
func slowBinds(dir string) (stop func(), err error) {
	const watchers = 32
	fds := make([]int, 0, watchers)
	stop = func() {
		for _, fd := range fds {
			unix.Close(fd)
		}
	}
	for range watchers {
		fd, err := sys.InotifyInit()
		if err != nil {
			stop()
			return nil, err
		}
		fds = append(fds, fd)
		if _, err := sys.InotifyAdd(fd, dir, unix.IN_CREATE); err != nil {
			stop()
			return nil, err
		}
	}
	return stop, nil
}

const header = "filesystem  strategy           claims       lives    removals        kept  losses  per million lives"

// row is a line below the header.
func (t trial) row(r *tally) string {
	lives, losses := r.lives.Load(), r.losses.Load()
	return fmt.Sprintf("%-11s %-18s %-10s %7d  %10d  %10d  %6d  %17.1f", t.place.filesystem, t.strategy.name, t.claims,
		lives, r.removals.Load(), r.kept.Load(), losses, float64(losses)*million/float64(max(lives, 1)))
}

func (t trial) String() string {
	return fmt.Sprintf("%s on %s, claims %s", t.strategy.name, t.place.filesystem, t.claims)
}
