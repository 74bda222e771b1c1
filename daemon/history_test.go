package daemon

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/sockwatch/sockwatch/client"
	"github.com/sockwatch/sockwatch/internal/config"
	"github.com/sockwatch/sockwatch/internal/testutil"
)

// TestNoGap: what has happened before a stream began is in the history as soon as the stream says that it has begun.
func TestNoGap(t *testing.T) {
	p := newPlace(t)
	p.serve(config.Default())
	c := p.dial()
	o := startPuppet(t)
	const most = 200
	var paths []string
	for i := range most {
		path := p.path(fmt.Sprint(i))
		o.do("bind", path)
		paths = append(paths, path)
	}
	c.watch(o.pid(), paths...)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	o.kill()
	// Streams begin while outcomes come, one for each claim. What each stream and the history after its beginning have is all.
	var streams sync.WaitGroup
	for range 8 {
		stream, late := p.dial(), p.dial()
		streams.Go(func() {
			seen := map[string]bool{}
			began := false
			for m, err := range stream.c.Monitor(ctx) {
				if err != nil {
					t.Errorf("%d are missing: %v", most-len(seen), err)
					return
				}
				if !began {
					began = true
					events, err := late.c.History(ctx, "")
					if err != nil {
						t.Error(err)
						return
					}
					for _, e := range events {
						seen[e.Exact()] = true
					}
				}
				if m.Event.Type == "outcome" {
					seen[m.Event.Exact()] = true
				}
				if len(seen) == most {
					return
				}
			}
		})
	}
	streams.Wait()
}

// TestHistoryOfTheReaped: how it ended is known when its parent has reaped it, and told then of what was removed before.
func TestHistoryOfTheReaped(t *testing.T) {
	testutil.Require(t, testutil.InfoExit)
	p := newPlace(t)
	p.start()
	c := p.dial()
	o := startPuppet(t)
	path := p.path("s")
	o.do("bind", path)
	c.watch(o.pid())
	must(t, o.child.Cmd.Process.Kill())
	if e := c.wantOutcome(path, "removed"); strings.Contains(e.Exit, "SIGKILL") {
		t.Errorf("it is not reaped yet: %+v", e)
	}
	o.kill()
	var e client.Event
	c.until("how it ended", func() bool { e = c.outcome(path); return e.Exit == "killed by SIGKILL" })
	p.stop()
}
