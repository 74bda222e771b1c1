package tracing

import (
	"testing"

	"github.com/sockwatch/sockwatch/ebpf"
	"github.com/sockwatch/sockwatch/pidfd"
	"github.com/sockwatch/sockwatch/reap"
	"github.com/sockwatch/sockwatch/watch"
)

// TestAdded: a process that is traced and added has one claim of a file, and the file one outcome, whatever came first.
func TestAdded(t *testing.T) {
	w := newWorld(t)
	w.trace(ebpf.Options{Hooks: ebpf.HooksTracepoint})
	for name, test := range map[string]struct {
		first  bool // it is added before it binds
		claim  func(o *watch.Owner, path string) error
		source watch.Source
	}{
		"named":                {false, named, watch.SourceExplicit},
		"named before":         {true, named, watch.SourceExplicit},
		"opened":               {false, opened, watch.SourceExplicit},
		"held":                 {false, snapshot, watch.SourceTrace},
		"held, then named":     {false, both, watch.SourceExplicit},
		"nothing said of it":   {false, nothing, watch.SourceTrace},
		"nothing before, even": {true, nothing, watch.SourceTrace},
	} {
		t.Run(name, func(t *testing.T) {
			w := w.in(t)
			path := w.path("s")
			p := start(t, 0)
			bind := func() {
				p.do("bind", path)
				if !test.first {
					w.claimed(p.PID(), path)
				}
			}
			add := func() {
				process, err := pidfd.Open(p.PID())
				must(t, err)
				o, err := w.w.Add(process, watch.OwnerOptions{})
				must(t, err)
				must(t, test.claim(o, path))
			}
			if test.first {
				add()
				w.hold(path)
				bind()
				w.held(path)
				w.release(path)
				w.caughtUp()
			} else {
				bind()
				add()
			}
			claims := w.claimsOf(path)
			if len(claims) != 1 {
				t.Fatalf("%d claims: %+v", len(claims), claims)
			}
			onlyTraced := test.source == watch.SourceTrace && name != "held"
			if c := claims[0]; c.Source != test.source || c.Traced != onlyTraced || !c.Identified {
				t.Errorf("%+v, want %s", c, test.source)
			}
			p.Kill()
			if e := w.outcomeOf(path); e.Result.Outcome != reap.OutcomeRemoved || e.Source != test.source || e.Owner.PID != p.PID() {
				t.Errorf("%+v", e)
			}
			w.w.SettleEnded()
			for len(w.events) > 0 {
				if e := <-w.events; e.Kind == watch.KindOutcome && e.Result.Path == path {
					t.Errorf("one more: %+v", e)
				}
			}
			absent(t, path)
		})
	}
}

func named(o *watch.Owner, path string) error {
	_, err := o.Claim(path, watch.SourceExplicit)
	return err
}

func opened(o *watch.Owner, path string) error {
	f, err := reap.Open(path)
	if err != nil {
		return err
	}
	_, err = o.ClaimFile(f, watch.SourceExplicit)
	return err
}

func snapshot(o *watch.Owner, _ string) error {
	_, err := o.Snapshot()
	return err
}

func both(o *watch.Owner, path string) error {
	if err := snapshot(o, path); err != nil {
		return err
	}
	return named(o, path)
}

func nothing(*watch.Owner, string) error { return nil }

// claimsOf are all claims of a path, whoever's they are.
func (w *world) claimsOf(path string) (all []watch.ClaimState) {
	for _, o := range w.w.Owners() {
		for _, c := range o.Claims() {
			if c.Path() == path {
				all = append(all, c.State())
			}
		}
	}
	return all
}
