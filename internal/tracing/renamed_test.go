package tracing

import (
	"os"
	"strconv"
	"testing"

	"github.com/sockwatch/sockwatch/reap"
	"github.com/sockwatch/sockwatch/watch"
)

// testRenamedGone: nobody has the socket any more.
func testRenamedGone(t *testing.T, w *world) {
	path, after := w.path("s.tmp"), w.path("s")
	w.hold(path)
	p := start(t, 0)
	p.do("bind", path)
	w.held(path)
	p.do("rename", path, after)
	p.Kill()
	w.release(path)
	w.removed(p.PID())
	absent(t, after)
}

// passOn has a process bind a name of the moment, give the file its own, and have another process have the socket, all before the Source
// looks. holder ends when end is called.
func passOn(t *testing.T, w *world, then func(p process)) (p process, holder int, path string, end func()) {
	t.Helper()
	bound, path := w.path("s.tmp"), w.path("s")
	r, hold, err := os.Pipe()
	must(t, err)
	t.Cleanup(func() { hold.Close() })
	w.hold(bound)
	p = start(t, 0, r)
	must(t, r.Close())
	p.do("bind", bound)
	w.held(bound)
	p.do("rename", bound, path)
	holder, err = strconv.Atoi(p.ask("inherit"))
	must(t, err)
	then(p)
	w.release(bound)
	return p, holder, path, func() { must(t, hold.Close()) }
}

// testPassedOn is what haproxy does: the process has no socket any more, and lives.
func testPassedOn(t *testing.T, w *world) {
	p, holder, path, end := passOn(t, w, func(p process) { p.do("close") })
	w.claimed(p.PID(), path)
	p.Kill()
	if e := w.outcomeOf(path); e.Result.Outcome != reap.OutcomeAlive || e.Result.Reason != reap.ReasonHolder {
		t.Errorf("%+v, its holder is %d", e, holder)
	}
	present(t, path)
	end()
	if e := w.outcomeOf(path); e.Owner.PID != holder || e.Result.Outcome != reap.OutcomeRemoved {
		t.Errorf("%+v, its holder was %d", e, holder)
	}
	absent(t, path)
}

// testPassedOnGone: the process is gone, too.
func testPassedOnGone(t *testing.T, w *world) {
	_, holder, path, end := passOn(t, w, process.Kill)
	w.until("outcome of "+path, func(e watch.Event) bool {
		return e.Kind == watch.KindOutcome && e.Result.Path == path && e.Result.Reason == reap.ReasonHolder
	})
	end()
	if e := w.outcomeOf(path); e.Owner.PID != holder || e.Result.Outcome != reap.OutcomeRemoved {
		t.Errorf("%+v, its holder was %d", e, holder)
	}
	absent(t, path)
}
