package daemon

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/sockwatch/sockwatch/internal/config"
	"github.com/sockwatch/sockwatch/internal/testutil"
	"github.com/sockwatch/sockwatch/reap"
	"github.com/sockwatch/sockwatch/watch"
)

// traced is a configuration with tracing, by the hooks that most kernels allow, and rules. What others on the machine leave behind is kept.
func (p *place) traced(rules string) config.Config {
	p.t.Helper()
	testutil.Require(p.t, testutil.Root, testutil.BPF)
	return p.config(fmt.Sprintf(`
[metrics]
listen = "unix:%[1]s/metrics"
[trace]
hooks = "tracepoint"
%[2]s
`, p.base, rules))
}

// outcomes gives the outcomes of the test's own files as they are asked for. The history has those of the whole machine, and is soon full.
func (p *place) outcomes(d *Daemon) func(path string) watch.Event {
	sub := d.watcher.Subscribe(1 << 16)
	p.t.Cleanup(sub.Close)
	known := map[string]watch.Event{}
	return func(path string) watch.Event {
		p.t.Helper()
		deadline := time.After(patience)
		for {
			if e, ok := known[path]; ok {
				return e
			}
			select {
			case e := <-sub.C():
				if e.Kind == watch.KindOutcome && strings.HasPrefix(e.Result.Path, p.base) {
					known[e.Result.Path] = e
				}
			case <-deadline:
				p.t.Fatalf("waited in vain: outcome of %s", path)
			}
		}
	}
}

// TestTrace: a stranger's file is removed where a rule says so, and otherwise told of and kept.
func TestTrace(t *testing.T) {
	p := newPlace(t)
	reaped, free, ignored := p.path("reaped"), p.path("free"), p.path("ignored")
	for _, dir := range []string{reaped, free, ignored} {
		must(t, os.Mkdir(dir, 0o755))
	}
	before := startPuppet(t)
	before.do("bind", reaped+"/before")
	d := p.serve(p.traced(fmt.Sprintf(`
[[rule]]
path = ["%s/**"]
action = "reap"
[[rule]]
path = ["%s/**"]
action = "ignore"
`, reaped, ignored)))
	c, s, outcome := p.dial(), newScraper(t, d), p.outcomes(d)

	status, err := c.c.Status(t.Context())
	must(t, err)
	if status.TraceHooks != "tracepoint" {
		t.Errorf("%+v", status)
	}
	// How many were lost is up to the whole machine.
	if scrape := s.scrape(); missing(scrape, `sockwatch_trace_info{hooks="tracepoint"} 1`) != "" || !strings.Contains(scrape, "\nsockwatch_trace_lost_total ") {
		t.Error(scrape)
	}

	o := startPuppet(t)
	for _, path := range []string{reaped + "/s", free + "/s", ignored + "/s"} {
		o.do("bind", path)
	}
	for _, path := range []string{reaped + "/s", free + "/s"} {
		if claim := c.claimed(o.child.PID(), path); claim.Source != "trace" {
			t.Errorf("%+v", claim)
		}
	}
	c.claimed(before.child.PID(), reaped+"/before")
	// A client that names the process has its files removed.
	named := startPuppet(t)
	named.do("bind", free+"/named")
	c.claimed(named.child.PID(), free+"/named")
	c.watch(named.pid())
	for _, puppet := range []*puppetOf{o, before, named} {
		puppet.kill()
	}
	c.gone(free + "/named")
	for _, path := range []string{reaped + "/s", reaped + "/before"} {
		c.gone(path)
		if e := outcome(path); e.Result.Outcome != reap.OutcomeRemoved || e.Result.DryRun {
			t.Errorf("%+v", e)
		}
	}
	if e := outcome(free + "/named"); e.Result.Outcome != reap.OutcomeRemoved || e.Result.DryRun {
		t.Errorf("%+v", e)
	}
	if e := outcome(free + "/s"); e.Result.Outcome != reap.OutcomeRemoved || !e.Result.DryRun || e.Source != watch.SourceTrace {
		t.Errorf("%+v", e)
	}
	kept(t, free+"/s", ignored+"/s")
	if events, err := c.c.History(t.Context(), ignored+"/s"); len(events) > 0 || err != nil {
		t.Errorf("%+v, %v", events, err)
	}

	// Without it in the configuration nothing is seen any more, and no hook is in use.
	d.Reload(p.config(fmt.Sprintf("[[bindspace]]\npath = %q\n", reaped)))
	o = startPuppet(t)
	o.do("bind", free+"/late")
	o.do("bind", reaped+"/late")
	c.claimed(o.child.PID(), reaped+"/late")
	if owner, _ := c.owner(o.child.PID()); len(owner.Claims) != 1 {
		t.Errorf("%+v", owner)
	}
	status, err = c.c.Status(t.Context())
	must(t, err)
	if status.TraceHooks != "" {
		t.Errorf("%+v", status)
	}
	if scrape := s.scrape(); strings.Contains(scrape, "sockwatch_trace_info{") {
		t.Error(scrape)
	}
}

// TestTraceRefused: a daemon that may not trace says so once, and does all else.
func TestTraceRefused(t *testing.T) {
	p := newPlace(t)
	must(t, os.WriteFile(p.conf, []byte("[trace]\nhooks = \"auto\"\n"), 0o600))
	daemon := testutil.Command(t, "daemon", p.dir, p.log, p.conf)
	if os.Geteuid() == 0 { // as root, but with what the unit leaves it
		testutil.Require(t, testutil.Program("setpriv"))
		setpriv, err := exec.LookPath("setpriv")
		must(t, err)
		daemon.Args = append([]string{"setpriv", "--bounding-set=-bpf,-perfmon,-sys_admin", daemon.Path}, daemon.Args[1:]...)
		daemon.Path = setpriv
	}
	p.child = testutil.Start(t, daemon)
	p.child.Expect("ready")
	client := p.dial()
	status, err := client.c.Status(t.Context())
	must(t, err)
	if status.TraceHooks != "" {
		t.Errorf("%+v", status)
	}
	if told := lines(p.logged(), "binds are not traced"); len(told) != 1 {
		t.Errorf("told %d times in:\n%s", len(told), p.logged())
	}
	o := startPuppet(t)
	o.do("bind", p.path("s"))
	client.watch(o.pid())
	o.kill()
	client.gone(p.path("s"))
}
