package daemon

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
	"github.com/rs/zerolog"
	"golang.org/x/sys/unix"

	"github.com/sockwatch/sockwatch/internal/config"
)

// scraper reads metrics, by a connection for each time.
type scraper struct {
	t  testing.TB
	to net.Addr
}

func newScraper(t testing.TB, d *Daemon) scraper { return scraper{t, d.metrics.listener.Addr()} }

func (s scraper) get(path string) (int, string) {
	s.t.Helper()
	transport := &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, s.to.Network(), s.to.String())
		},
	}
	r, err := (&http.Client{Transport: transport, Timeout: patience}).Get("http://sockwatch" + path)
	must(s.t, err)
	defer r.Body.Close()
	body, err := io.ReadAll(r.Body)
	must(s.t, err)
	return r.StatusCode, string(body)
}

func (s scraper) scrape() string {
	s.t.Helper()
	status, body := s.get("/metrics")
	if status != http.StatusOK {
		s.t.Fatalf("%d: %s", status, body)
	}
	return body
}

// missing gives the first of the lines that a scrape does not have.
func missing(scrape string, want ...string) string {
	for _, line := range want {
		if !strings.Contains("\n"+scrape, "\n"+line+"\n") {
			return line
		}
	}
	return ""
}

func unixMetrics(p *place) config.Config {
	c := config.Default()
	c.Metrics = config.Metrics{Network: "unix", Address: p.path("metrics")}
	return c
}

// TestMetrics: what a scrape tells of a process before its end and after it.
func TestMetrics(t *testing.T) {
	p := newPlace(t)
	d := p.serve(unixMetrics(p))
	c, s := p.dial(), newScraper(t, d)

	o := startPuppet(t)
	held, named := p.path("held"), p.path("named")
	o.do("bind", held)
	c.watch(o.pid(), named)
	scrape := s.scrape()
	if line := missing(scrape,
		"sockwatch_owners 1", `sockwatch_claims{source="snapshot"} 1`, `sockwatch_claims{source="explicit"} 1`, `sockwatch_claims{source="notify"} 0`,
		`sockwatch_outcomes_total{outcome="removed",reason=""} 0`, `sockwatch_dry_run_outcomes_total{outcome="removed",reason=""} 0`,
		"sockwatch_exit_to_gone_seconds_count 0", "sockwatch_events_dropped_total 0", "sockwatch_reports_dropped_total 0",
		`sockwatch_build_info{goversion="`+runtime.Version()+`",version="test"} 1`,
	); line != "" {
		t.Errorf("no line %q in:\n%s", line, scrape)
	}
	for _, name := range []string{"go_goroutines", "process_open_fds"} {
		if !strings.Contains(scrape, "\n"+name+" ") {
			t.Errorf("no %s in:\n%s", name, scrape)
		}
	}

	o.kill()
	c.wantOutcome(held, "removed")
	c.wantOutcome(named, "gone")
	c.until("the scrape shows it", func() bool {
		scrape = s.scrape()
		return missing(scrape,
			`sockwatch_outcomes_total{outcome="removed",reason=""} 1`, `sockwatch_outcomes_total{outcome="gone",reason=""} 1`,
			`sockwatch_exit_to_gone_seconds_bucket{le="+Inf"} 1`, "sockwatch_exit_to_gone_seconds_count 1",
			"sockwatch_owners 0", `sockwatch_claims{source="snapshot"} 0`, `sockwatch_claims{source="explicit"} 0`,
		) == ""
	})

	problems, err := promlint.New(bytes.NewBufferString(scrape)).Lint()
	must(t, err)
	for _, problem := range problems {
		t.Errorf("%s: %s", problem.Metric, problem.Text)
	}
	for _, path := range []string{"/", "/metrics/", "/debug/pprof/"} {
		if status, _ := s.get(path); status != http.StatusNotFound {
			t.Errorf("%s: %d", path, status)
		}
	}
}

// TestMetricsReason: why a file was kept.
func TestMetricsReason(t *testing.T) {
	p := newPlace(t)
	d := p.serve(unixMetrics(p))
	c, s := p.dial(), newScraper(t, d)
	o, path := startPuppet(t), p.path("s")
	c.watch(o.pid(), path)
	o.do("bind", path)
	c.claimed(o.child.PID(), path)
	must(t, os.Remove(path))
	must(t, os.WriteFile(path, nil, 0o600))
	o.kill()
	c.wantOutcome(path, "replaced")
	c.until("the scrape shows it", func() bool {
		return missing(s.scrape(), `sockwatch_outcomes_total{outcome="replaced",reason="not-socket"} 1`, "sockwatch_exit_to_gone_seconds_count 0") == ""
	})
}

// TestMetricsDryRun: what was not removed is not counted so.
func TestMetricsDryRun(t *testing.T) {
	p := newPlace(t)
	conf := unixMetrics(p)
	conf.DryRun = true
	d := p.serve(conf)
	c, s := p.dial(), newScraper(t, d)
	o, path := startPuppet(t), p.path("s")
	o.do("bind", path)
	c.watch(o.pid(), path)
	o.kill()
	c.wantOutcome(path, "removed")
	c.until("the scrape shows it", func() bool {
		return missing(s.scrape(),
			`sockwatch_dry_run_outcomes_total{outcome="removed",reason=""} 1`, `sockwatch_outcomes_total{outcome="removed",reason=""} 0`,
			"sockwatch_exit_to_gone_seconds_count 0") == ""
	})
	kept(t, path)
}

// TestMetricsTCP: an address of the network.
func TestMetricsTCP(t *testing.T) {
	p := newPlace(t)
	conf := config.Default()
	conf.Metrics = config.Metrics{Network: "tcp", Address: "127.0.0.1:0"}
	if scrape := newScraper(t, p.serve(conf)).scrape(); missing(scrape, "sockwatch_owners 0") != "" {
		t.Error(scrape)
	}
}

// TestMetricsSocket: its mode, its end with the daemon, and what is in its place.
func TestMetricsSocket(t *testing.T) {
	p := newPlace(t)
	conf := unixMetrics(p)
	path := conf.Metrics.Address
	open := func() (*Daemon, error) {
		return New(Options{RuntimeDir: p.dir, Config: conf, Version: "test", Log: zerolog.New(zerolog.NewTestWriter(t))})
	}
	bind := func() net.Listener {
		l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
		must(t, err)
		l.SetUnlinkOnClose(false)
		return l
	}

	alive := bind()
	if d, err := open(); err == nil {
		must(t, d.Close())
		t.Error("a live socket is no hindrance")
	}
	kept(t, path)
	must(t, alive.Close()) // as a daemon that was killed leaves it

	d, err := open()
	must(t, err)
	info, err := os.Lstat(path)
	must(t, err)
	if info.Mode() != os.ModeSocket|metricsMode {
		t.Errorf("mode %v", info.Mode())
	}
	must(t, d.Close())
	if exists(t, path) {
		t.Error("the socket outlives the daemon")
	}

	d, err = open()
	must(t, err)
	must(t, os.Remove(path))
	other := bind()
	must(t, d.Close())
	kept(t, path) // it is another's
	must(t, other.Close())

	must(t, os.Remove(path))
	must(t, os.WriteFile(path, nil, 0o600))
	if _, err := open(); err == nil {
		t.Error("a regular file is no hindrance")
	}
	kept(t, path)

	conf.Metrics.Address = filepath.Join(p.dir, "control")
	if _, err := open(); err == nil {
		t.Error("the control socket is no hindrance")
	}
	conf.Metrics = config.Metrics{Network: "tcp", Address: "127.0.0.1:none"}
	if _, err := open(); err == nil {
		t.Error("an address that is none")
	}
}

// TestMetricsConnections: who connects and says nothing takes no more than a few descriptors, and does not delay the end.
func TestMetricsConnections(t *testing.T) {
	p := newPlace(t)
	p.serve(unixMetrics(p))
	var refused net.Conn
	for range metricsConns + 1 {
		c, err := net.Dial("unix", p.path("metrics"))
		must(t, err)
		defer c.Close()
		refused = c
	}
	// They are accepted in their order.
	if n, err := refused.Read(make([]byte, 1)); n != 0 || !errors.Is(err, io.EOF) && !errors.Is(err, unix.ECONNRESET) {
		t.Errorf("one more: %d, %v", n, err)
	}
}

// TestMetricsOff: without an address there are none.
func TestMetricsOff(t *testing.T) {
	p := newPlace(t)
	if d := p.serve(config.Default()); d.metrics != nil {
		t.Errorf("%+v", d.metrics)
	}
}
