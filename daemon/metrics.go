package daemon

import (
	"context"
	"errors"
	"fmt"
	stdlog "log"
	"net"
	"net/http"
	"os"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/rs/zerolog"

	"github.com/sockwatch/sockwatch/client"
	"github.com/sockwatch/sockwatch/internal/config"
	"github.com/sockwatch/sockwatch/internal/sys"
	"github.com/sockwatch/sockwatch/reap"
	"github.com/sockwatch/sockwatch/watch"
)

// Limits on those who read metrics: anybody who reaches the address may, and must not take the daemon's descriptors.
const (
	metricsConns    = 16               // at a time; further ones are closed
	metricsPatience = 10 * time.Second // for a request to come, and for its answer to be taken
	metricsHeader   = 16 << 10         // bytes
)

// metricsMode is that of the socket: who may write to it may connect.
const metricsMode = 0o660

// exitBuckets are of seconds. A removal takes some ten microseconds, and the wait for holders up to 0.2 s.
var exitBuckets = []float64{
	20e-6, 50e-6, 100e-6, 200e-6, 500e-6, 1e-3, 2e-3, 5e-3, 10e-3, 20e-3, 50e-3, 100e-3, 200e-3, 500e-3, 1,
}

// metrics serves metrics for Prometheus, which docs/metrics.md lists. Nil is nowhere. It has two goroutines, and one for each connection.
type metrics struct {
	d        *Daemon
	registry *prometheus.Registry
	sub      *watch.Subscription
	done     sync.WaitGroup

	owners, claims   *prometheus.Desc
	traceInfo        *prometheus.Desc
	outcomes, dryRun *prometheus.CounterVec
	refused          *prometheus.CounterVec // is counted by any goroutine
	exitToGone       prometheus.Histogram

	listener net.Listener
	file     *reap.File // of a unix listener
	server   *http.Server
	serving  sync.WaitGroup // connections
	conns    atomic.Int32
	closed   atomic.Bool
}

// serveMetrics counts from now on, and serves where the configuration says so. The daemon has its history and its receiver.
func serveMetrics(d *Daemon) (*metrics, error) {
	where := d.o.Config.Metrics
	if where.Network == "" {
		return nil, nil
	}
	m := &metrics{d: d}
	if err := m.listen(where); err != nil {
		return nil, err
	}
	m.register()
	said := stdlog.New(httpLog{d.log}, "", 0)
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{ErrorLog: said}))
	m.server = &http.Server{
		Handler: mux, ErrorLog: said, ConnState: m.admit,
		ReadTimeout: metricsPatience, WriteTimeout: metricsPatience, MaxHeaderBytes: metricsHeader,
	}
	m.server.SetKeepAlivesEnabled(false) // nobody holds one of the few connections between two scrapes, nor a timer of ours
	m.sub = d.watcher.Subscribe(16 << 10)
	m.done.Go(func() {
		for e := range m.sub.C() {
			m.count(e)
		}
	})
	m.done.Go(m.serve)
	return m, nil
}

// refuse counts a request that was refused.
func (m *metrics) refuse(name string) {
	if m != nil {
		m.refused.WithLabelValues(strings.TrimPrefix(name, client.Interface+".")).Inc()
	}
}

func (m *metrics) listen(where config.Metrics) (err error) {
	var lc net.ListenConfig
	if where.Network == "unix" {
		if err := m.d.clear(where.Address); err != nil {
			return err
		}
		lc.Control = func(_, _ string, raw syscall.RawConn) error {
			var err error
			// Before bind, so that it is at no time open to more than it should be.
			denied := raw.Control(func(fd uintptr) { err = sys.SetSocketMode(int(fd), metricsMode) })
			return errors.Join(denied, err)
		}
	}
	if m.listener, err = lc.Listen(context.Background(), where.Network, where.Address); err != nil {
		return fmt.Errorf("serve metrics: %w", err)
	}
	l, ok := m.listener.(*net.UnixListener)
	if !ok {
		return nil
	}
	l.SetUnlinkOnClose(false) // by name: it is removed as any other
	if m.file, err = reap.Open(where.Address); err == nil {
		_, _ = m.file.Probe()                      // what was seen alive can be removed anywhere
		err = os.Chmod(where.Address, metricsMode) // what the umask took away
	}
	if err != nil {
		_ = l.Close()
		m.remove()
		return fmt.Errorf("serve metrics: %w", err)
	}
	return nil
}

// register makes the metrics, in a registry of their own: the default one is every library's.
func (m *metrics) register() {
	m.owners = prometheus.NewDesc("sockwatch_owners", "Processes that are watched.", nil, nil)
	m.claims = prometheus.NewDesc("sockwatch_claims", "Claims of the processes that are watched.", []string{"source"}, nil)
	m.traceInfo = prometheus.NewDesc("sockwatch_trace_info", "1 where every bind is traced, with the hooks in use.", []string{"hooks"}, nil)
	m.outcomes = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "sockwatch_outcomes_total", Help: "What became of claims.",
	}, []string{"outcome", "reason"})
	m.dryRun = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "sockwatch_dry_run_outcomes_total", Help: "What would have become of claims whose files a rule or dry_run keeps.",
	}, []string{"outcome", "reason"})
	for _, counter := range []*prometheus.CounterVec{m.outcomes, m.dryRun} {
		for o := reap.OutcomeUnknown; o <= reap.OutcomeFailed; o++ {
			counter.WithLabelValues(o.String(), "") // an increase is seen only of a series that is there before
		}
	}
	m.refused = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "sockwatch_requests_refused_total", Help: "Requests on the control socket that were refused, by error.",
	}, []string{"error"})
	m.exitToGone = prometheus.NewHistogram(prometheus.HistogramOpts{
		Name: "sockwatch_exit_to_gone_seconds", Help: "From the kernel's word that a process has ended to the removal of its sock-file.",
		Buckets: exitBuckets,
	})
	m.registry = prometheus.NewRegistry()
	m.registry.MustRegister(
		m, m.outcomes, m.dryRun, m.refused, m.exitToGone,
		prometheus.NewCounterFunc(prometheus.CounterOpts{
			Name: "sockwatch_events_dropped_total", Help: "Events that the daemon's history or its metrics have missed.",
		}, func() float64 { return float64(m.d.history.sub.Dropped() + m.sub.Dropped()) }),
		prometheus.NewCounterFunc(prometheus.CounterOpts{
			Name: "sockwatch_reports_dropped_total", Help: "Reports to the notify socket that were lost since too many of the same user waited.",
		}, func() float64 { return float64(m.d.receiver.Dropped()) }),
		prometheus.NewCounterFunc(prometheus.CounterOpts{
			Name: "sockwatch_trace_lost_total", Help: "Binds that the kernel told of faster than they were read, since the hooks are in use.",
		}, func() float64 { _, lost := m.d.trace.state(); return float64(lost) }),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "sockwatch_build_info", Help: "1, with the version of sockwatch and of Go.",
			ConstLabels: prometheus.Labels{"version": validText(m.d.o.Version), "goversion": runtime.Version()},
		}, func() float64 { return 1 }),
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
	)
}

// Describe is of prometheus.Collector, for what is counted when it is asked for.
func (m *metrics) Describe(c chan<- *prometheus.Desc) {
	c <- m.owners
	c <- m.claims
	c <- m.traceInfo
}

// Collect is of prometheus.Collector.
func (m *metrics) Collect(c chan<- prometheus.Metric) {
	owners, claims := 0, map[watch.Source]int{}
	for _, o := range m.d.watcher.Owners() {
		if o.Identity().PID == 0 { // a bindspace of the configuration
			continue
		}
		owners++
		for _, claim := range o.Claims() {
			claims[claim.Source()]++
		}
	}
	c <- prometheus.MustNewConstMetric(m.owners, prometheus.GaugeValue, float64(owners))
	if hooks, _ := m.d.trace.state(); hooks != "" {
		c <- prometheus.MustNewConstMetric(m.traceInfo, prometheus.GaugeValue, 1, hooks)
	}
	for s := watch.SourceExplicit; s <= watch.SourceSweep; s++ {
		c <- prometheus.MustNewConstMetric(m.claims, prometheus.GaugeValue, float64(claims[s]), s.String())
	}
}

// count counts what a watcher's Event tells.
func (m *metrics) count(e watch.Event) {
	if e.Kind != watch.KindOutcome {
		return
	}
	counter := m.outcomes
	if e.Result.DryRun {
		counter = m.dryRun
	}
	counter.WithLabelValues(e.Result.Outcome.String(), string(e.Result.Reason)).Inc()
	// 0 is an owner that lives on, or none.
	if e.Result.Outcome == reap.OutcomeRemoved && !e.Result.DryRun && e.AfterExit > 0 {
		m.exitToGone.Observe(e.AfterExit.Seconds())
	}
}

func (m *metrics) serve() {
	if err := m.server.Serve(m.listener); !errors.Is(err, http.ErrServerClosed) {
		m.d.log.Error().Err(err).Msg("metrics are not served any more")
	}
}

// admit keeps count of connections. The server calls it.
func (m *metrics) admit(c net.Conn, state http.ConnState) {
	switch state {
	case http.StateNew:
		m.serving.Add(1)
		if m.conns.Add(1) > metricsConns || m.closed.Load() {
			_ = c.Close() // the server finds it so, and says StateClosed
		}
	case http.StateClosed:
		m.conns.Add(-1)
		m.serving.Done()
	default:
	}
}

// close ends serving and counting, and removes the socket.
func (m *metrics) close() {
	if m == nil {
		return
	}
	m.closed.Store(true) // for a connection that the server has accepted and does not know yet
	_ = m.server.Close()
	m.sub.Close()
	m.done.Wait()
	m.serving.Wait()
	m.remove()
}

func (m *metrics) remove() {
	if m.file != nil {
		m.file.Remove(reap.RemoveOptions{})
		_ = m.file.Close()
	}
}

// httpLog takes what net/http has to say.
type httpLog struct{ zerolog.Logger }

func (l httpLog) Write(line []byte) (int, error) {
	l.Warn().Str("error", validText(strings.TrimSpace(string(line)))).Msg("metrics")
	return len(line), nil
}
