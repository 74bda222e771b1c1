package main

import (
	"fmt"

	"github.com/sockwatch/sockwatch/pidfd"
	"github.com/sockwatch/sockwatch/reap"
	"github.com/sockwatch/sockwatch/watch"
)

// library is package watch in this process.
type library struct {
	w      *watch.Watcher
	events *watch.Subscription
	owners []*watch.Owner
}

func newLibrary(n int) (*library, error) {
	w, err := watch.New(watch.Options{})
	if err != nil {
		return nil, err
	}
	// An owner has three Events: claimed, exited, outcome.
	return &library{w: w, events: w.Subscribe(3*n + 3), owners: make([]*watch.Owner, n)}, nil
}

func (l *library) add(_, i, pid int, path string) error {
	p, err := pidfd.Open(pid)
	if err != nil {
		return err
	}
	if l.owners[i], err = l.w.Add(p, watch.OwnerOptions{Paths: []string{path}}); err != nil {
		_ = p.Close()
	}
	return err
}

// added takes the Events, which would keep their strings.
func (l *library) added(n int) error {
	for n > 0 {
		e, ok := <-l.events.C()
		if !ok {
			return watch.ErrClosed
		}
		if e.Kind == watch.KindClaimed {
			n--
		}
	}
	return nil
}

func (l *library) drop(i int) error { return l.owners[i].Release() }

func (l *library) outcome() (outcome, error) {
	for e := range l.events.C() {
		if e.Kind != watch.KindOutcome {
			continue
		}
		if e.Result.Outcome != reap.OutcomeRemoved {
			return outcome{}, fmt.Errorf("%s is %s (%s): %w", e.Result.Path, e.Result.Outcome, e.Result.Reason, e.Result.Err)
		}
		return outcome{gone: e.Time.Round(0), afterExit: e.AfterExit, took: e.Result.Took}, nil
	}
	return outcome{}, watch.ErrClosed
}

func (l *library) close() error { return l.w.Close() }
