package watch

import (
	"encoding/json"
	"strconv"
	"testing"
	"time"

	"github.com/sockwatch/sockwatch/internal/testutil"
	"github.com/sockwatch/sockwatch/reap"
)

// TestSlowSubscriber has subscribers that do not read. Nothing waits for them, and each counts for itself.
func TestSlowSubscriber(t *testing.T) {
	w, dir := newWatched(t), testutil.TempDir(t)
	none, one := w.Subscribe(0), w.Subscribe(1)
	p := startPuppet(t)
	const n = 100
	p.do("many", strconv.Itoa(n), dir+"/")
	o := w.add(p.pid(), OwnerOptions{})
	for i := range n {
		mustClaim(t, o, dir+"/"+strconv.Itoa(i))
	}
	// Not reaped: at that moment it may not be known how it ended, and then that is told later.
	if err := p.child.Cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	waitSettled(t, o)
	for i := range n {
		wantGone(t, dir+"/"+strconv.Itoa(i))
	}
	const events = n + 1 + n
	if d := none.Dropped(); d != events {
		t.Errorf("%d events were dropped of %d", d, events)
	}
	if d := one.Dropped(); d != events-1 {
		t.Errorf("%d events were dropped of %d, and there was room for one", d, events)
	}
	if e := <-one.C(); e.Kind != KindClaimed {
		t.Errorf("kept: %s", describe([]Event{e}))
	}
	if d := w.sub.Dropped(); d != 0 {
		t.Errorf("%d events were dropped by who reads", d)
	}
	one.Close()
	if _, ok := <-one.C(); ok {
		t.Error("an event of a closed subscription")
	}
}

// TestSubscriptionEnds closes subscriptions in every order, also twice.
func TestSubscriptionEnds(t *testing.T) {
	w := newWatched(t)
	first, second := w.Subscribe(1), w.Subscribe(1)
	first.Close()
	first.Close()
	if _, ok := <-first.C(); ok {
		t.Error("an event of a closed subscription")
	}
	p := startPuppet(t)
	o := w.add(p.pid(), OwnerOptions{})
	p.child.Kill()
	waitSettled(t, o)
	w.Close()
	if e, ok := <-second.C(); !ok || e.Kind != KindExited {
		t.Error("what was not read yet is lost when the watcher is closed")
	}
	if _, ok := <-second.C(); ok {
		t.Error("an event of a closed watcher")
	}
	second.Close()
	third := w.Subscribe(1)
	if _, ok := <-third.C(); ok {
		t.Error("an event of a closed watcher")
	}
	third.Close()
}

// TestNames spells the names that are part of the JSON interface.
func TestNames(t *testing.T) {
	b, err := json.Marshal([]any{
		KindClaimed, KindExited, KindOutcome,
		SourceExplicit, SourceNotify, SourceTrace, SourceBindspace, SourceSnapshot, SourceConvention, SourceSweep,
		Kind(0), Source(0),
	})
	if err != nil {
		t.Fatal(err)
	}
	const want = `["claim","exit","outcome",` +
		`"explicit","notify","trace","bindspace","snapshot","convention","sweep",` +
		`"invalid(0)","invalid(0)"]`
	if string(b) != want {
		t.Errorf("got %s", b)
	}
}

// TestEventsOfHandedOn looks at all that is told of a claim that is handed on twice.
func TestEventsOfHandedOn(t *testing.T) {
	w, path := newWatched(t), testutil.TempDir(t)+"/a"
	p := startPuppet(t)
	o := w.add(p.pid(), OwnerOptions{Paths: []string{path}})
	p.do("bind", path)
	w.mustIdentify(o.claims[0])
	first, last := p.fork(), p.fork()
	p.child.Kill()
	w.wantOutcome(path, reap.OutcomeAlive, reap.ReasonHolder)
	kill(t, first)
	w.searched()
	id, err := last.Identity()
	if err != nil {
		t.Fatal(err)
	}
	kill(t, last)
	e := w.wantOutcome(path, reap.OutcomeRemoved, "") // being kept once more was no news
	if e.Owner != id {
		t.Errorf("outcome of %s, want %s", e.Owner, id)
	}
	w.settleLoop()
	w.empty()
}

// TestTimes relates the times of Events to each other: AfterExit is from the exit's time to the outcome's.
func TestTimes(t *testing.T) {
	w, path := newWatched(t), testutil.TempDir(t)+"/a"
	p := startPuppet(t)
	p.do("bind", path)
	o := w.add(p.pid(), OwnerOptions{Paths: []string{path}})
	before := time.Now()
	p.child.Kill()
	outcome := w.outcome(path)
	waitSettled(t, o)
	exit := w.seen[1]
	if exit.Kind != KindExited || exit.Time.Before(before) {
		t.Errorf("the exit is told to be %v before the kill", before.Sub(exit.Time))
	}
	if got := outcome.Time.Sub(exit.Time); outcome.AfterExit != got {
		t.Errorf("%v after the exit, the times differ by %v", outcome.AfterExit, got)
	}
	if outcome.Result.Took <= 0 || outcome.Result.Took > outcome.AfterExit {
		t.Errorf("it took %v, all in all %v", outcome.Result.Took, outcome.AfterExit)
	}
}
