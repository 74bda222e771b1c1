package daemon

import (
	"sync"

	"github.com/sockwatch/sockwatch/ebpf"
	"github.com/sockwatch/sockwatch/internal/config"
	"github.com/sockwatch/sockwatch/internal/tracing"
	"github.com/sockwatch/sockwatch/reap"
)

// trace is the source of claims that needs nobody's cooperation: the kernel tells of every bind. The zero value sees none.
type trace struct {
	mu     sync.Mutex
	wanted config.Trace
	source *tracing.Source // nil is off, or refused
	closed bool
}

// set has binds seen as the configuration says. Where the kernel refuses, the daemon goes on without.
func (t *trace) set(d *Daemon, wanted config.Trace) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed || wanted == t.wanted {
		return
	}
	t.wanted = wanted
	if t.source != nil {
		if err := t.source.Close(); err != nil {
			d.log.Error().Err(err).Msg("end tracing")
		}
		t.source = nil
	}
	if !wanted.On {
		return
	}
	kernel, err := ebpf.Open(ebpf.Options{Hooks: wanted.Hooks})
	if err != nil {
		d.log.Error().Err(err).Msg("binds are not traced")
		return
	}
	for _, refusal := range kernel.Refusals() {
		d.log.Info().Err(refusal.Err).Stringer("hooks", refusal.Hooks).Msg("the kernel refuses these hooks")
	}
	d.log.Info().Stringer("hooks", kernel.Hooks()).Msg("every bind is traced")
	t.source = tracing.Start(d.watcher, kernel, tracing.Options{
		Log: d.log, Open: d.openTraced,
		Lost: func(n uint64) {
			d.log.Warn().Uint64("lost", n).Msg("the kernel tells of binds faster than they are read: what is still there of those that were lost is looked for")
		},
	})
}

// state tells by which hooks binds are seen, "" is none, and how many events were lost.
func (t *trace) state() (hooks string, lost uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.source == nil {
		return "", 0
	}
	kernel := t.source.Tracer()
	return kernel.Hooks().String(), kernel.Drops()
}

func (t *trace) close() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.closed = true
	if t.source != nil {
		_ = t.source.Close()
		t.source = nil
	}
}

// openTraced opens what was bound with the rights of the directory's owner.
func (d *Daemon) openTraced(root, path string) (*reap.File, error) {
	below := d.root
	if root != "" {
		var err error
		if below, err = openRoot(root); err != nil {
			return nil, err
		}
		defer below.end()
	}
	u, err := dirUser(root, parent(path))
	if err != nil {
		return nil, err
	}
	return below.open(d.as(u), path)
}
