package daemon

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"

	"github.com/sockwatch/sockwatch/client"
	"github.com/sockwatch/sockwatch/internal/config"
	"github.com/sockwatch/sockwatch/internal/notifyd"
	"github.com/sockwatch/sockwatch/internal/records"
	"github.com/sockwatch/sockwatch/internal/varlink"
	"github.com/sockwatch/sockwatch/pidfd"
	"github.com/sockwatch/sockwatch/reap"
	"github.com/sockwatch/sockwatch/watch"
)

// NotifyName is the name of the notify socket in the runtime directory.
const NotifyName = "notify"

// Options say how a Daemon works.
type Options struct {
	RuntimeDir string // absolute; made if it is missing
	Config     config.Config
	Version    string
	Log        zerolog.Logger
	// Control and Notify are sockets that are there already, as from systemd. Nil: they are made in the runtime directory.
	Control *net.UnixListener
	Notify  *net.UnixConn
}

// Daemon is the service. Safe for concurrent use.
type Daemon struct {
	o       Options
	log     zerolog.Logger
	config  atomic.Pointer[config.Config]
	started time.Time

	store     *records.Store
	watcher   *watch.Watcher
	root      *root // ours
	control   *net.UnixListener
	own       []*reap.File // of the sockets that we have made
	receiver  *notifyd.Receiver
	history   *history
	keeper    *keeper
	metrics   *metrics // nil is off
	spaces    spaces
	trace     trace
	leftovers leftovers
	untaken   untaken

	registering userLocks // held while a process is registered, or more is claimed for one, of who has registered it
	reports     reports
	answering   answering

	roots sync.WaitGroup // root directories of those that were found, until they have ended

	closing sync.Once
	closed  error // of the end; written by closing

	mu     sync.Mutex
	owners map[string]*registered // by id
	byUID  map[uint32]int         // how many each user has registered
}

// New starts a daemon: the lock, the records of the one before, which are taken up, the sockets. Run serves.
//
// Errors: *records.LockedError when another daemon has the runtime directory.
func New(o Options) (*Daemon, error) {
	d := &Daemon{
		o: o, log: o.Log, started: time.Now(),
		owners: map[string]*registered{}, byUID: map[uint32]int{},
	}
	d.config.Store(&o.Config)
	if err := d.open(); err != nil {
		_ = d.Close()
		return nil, err
	}
	return d, nil
}

func (d *Daemon) open() (err error) {
	if err := os.MkdirAll(d.o.RuntimeDir, 0o755); err != nil {
		return fmt.Errorf("make the runtime directory: %w", err)
	}
	if d.store, err = records.Open(filepath.Join(d.o.RuntimeDir, "owners")); err != nil {
		return err
	}
	if d.root, err = openRoot("/"); err != nil {
		return err
	}
	d.untaken.open(d)
	d.keeper = newKeeper(d)
	if d.watcher, err = watch.New(watch.Options{
		Log: d.log, Policy: watch.Policy{Decide: d.decide, Cgroup: d.cgroup, Changed: d.keeper.changed},
	}); err != nil {
		return err
	}
	d.history = newHistory(d.watcher)
	if err := d.listen(); err != nil {
		return err
	}
	if d.metrics, err = serveMetrics(d); err != nil {
		return err
	}
	d.leftovers.open(d)
	if err := d.restore(); err != nil {
		return err
	}
	d.spaces.d = d
	d.spaces.set(d.o.Config.Bindspaces)
	if err := d.watcher.TakeReports(d.receiver, d.openReported); err != nil {
		return err
	}
	d.trace.set(d, d.o.Config.Trace)
	d.keeper.start()
	d.leftovers.start()
	d.untaken.start()
	return nil
}

// listen makes the sockets, or takes over those that are there.
func (d *Daemon) listen() (err error) {
	control, notify := d.controlPath(), d.notifyPath()
	if d.control = d.o.Control; d.control == nil {
		if err := d.clear(control); err != nil {
			return err
		}
		if d.control, err = varlink.Listen(context.Background(), control, 0); err != nil {
			return err
		}
		if err := d.made(control); err != nil {
			return err
		}
	}
	options := notifyd.Options{Mode: 0o666}
	if d.o.Notify != nil {
		d.receiver, err = notifyd.Receive(d.o.Notify, options)
		return err
	}
	if err := d.clear(notify); err != nil {
		return err
	}
	d.receiver, err = notifyd.Listen(notify, options)
	return err
}

func (d *Daemon) controlPath() string { return filepath.Join(d.o.RuntimeDir, client.ControlName) }
func (d *Daemon) notifyPath() string  { return filepath.Join(d.o.RuntimeDir, NotifyName) }

// made remembers to remove the control socket.
func (d *Daemon) made(path string) error {
	f, err := reap.Open(path)
	if err != nil {
		return err
	}
	d.own = append(d.own, f)
	_, _ = f.Probe() // what was seen alive can be removed anywhere
	return nil
}

// clear removes what a daemon that was killed has left of its sockets. We have the lock, so nobody else is about to bind there.
func (d *Daemon) clear(path string) error {
	f, err := reap.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("the daemon's own socket is in the way: %w", err)
	}
	defer f.Close()
	if r := f.Remove(reap.RemoveOptions{}); r.Outcome != reap.OutcomeRemoved && r.Outcome != reap.OutcomeGone {
		err := fmt.Errorf("%s is in the way: %s %s", path, r.Outcome, r.Reason)
		if r.Err != nil {
			err = fmt.Errorf("%w: %w", err, r.Err)
		}
		return err
	}
	return nil
}

// Run serves until ctx ends.
func (d *Daemon) Run(ctx context.Context) error {
	server := varlink.New(varlink.Options{
		Vendor: "sockwatch", Product: "sockwatch", Version: d.o.Version, URL: "https://github.com/sockwatch/sockwatch",
		ErrorInterface: client.Interface,
		Refused: func(p *varlink.Peer, err error) {
			d.log.Warn().Err(err).Int32("pid", p.PID).Uint32("uid", p.UID).Msg("a connection is refused")
		},
		Failed: func(p *varlink.Peer, method string, err error) {
			d.log.Error().Err(err).Str("method", method).Int32("pid", p.PID).Msg("a call failed")
		},
	}, d.iface())
	return server.Serve(ctx, d.control)
}

// Reload takes another configuration: its rules are for claims that are made from now on, its bindspaces are watched.
func (d *Daemon) Reload(c config.Config) {
	d.config.Store(&c)
	d.spaces.set(c.Bindspaces)
	d.trace.set(d, c.Trace)
}

// Close ends the daemon and keeps its records. A second call does nothing more.
func (d *Daemon) Close() error {
	d.closing.Do(func() { d.closed = d.close() })
	return d.closed
}

func (d *Daemon) close() error {
	d.metrics.close() // it asks the others
	d.leftovers.close()
	d.untaken.close()
	d.spaces.close()
	d.trace.close()
	if d.keeper != nil {
		d.keeper.close() // before the end of the watcher, which ends all claims
	}
	if d.watcher != nil {
		_ = d.watcher.Close()
	}
	d.roots.Wait()
	if d.receiver != nil {
		_ = d.receiver.Close() // the watcher has, if it ever had it
	}
	if d.history != nil {
		d.history.close()
	}
	if d.control != nil {
		_ = d.control.Close()
	}
	for _, f := range d.own {
		f.Remove(reap.RemoveOptions{})
		_ = f.Close()
	}
	d.mu.Lock()
	for _, r := range d.owners {
		r.endRoot()
	}
	d.mu.Unlock()
	if d.root != nil {
		d.root.end()
	}
	if d.store != nil {
		return d.store.Close()
	}
	return nil
}

// decide is the policy for a claim: an administrator's rule, or else it is removed, unless nothing tells of it but tracing. It is called with
// the watcher's locks held, and so touches no filesystem.
func (d *Daemon) decide(c watch.Candidate) watch.Action {
	cfg := d.config.Load()
	var action config.Action
	var ok bool
	if len(cfg.Rules) > 0 {
		action, ok = cfg.Rules.Decide(config.Candidate{
			Path: c.Path, UID: c.UID, Comm: c.Comm, Cgroup: c.Cgroup,
		})
	}
	switch {
	case ok && action == config.Ignore:
		return watch.ActionIgnore
	case ok && action == config.Report, cfg.DryRun, !ok && c.Traced:
		return watch.ActionReport
	}
	return watch.ActionReap
}

// cgroup is a process's cgroup, if a rule asks for one.
func (d *Daemon) cgroup(pid int) string { return cgroupOf(d.config.Load().Rules, pid) }

// identify gives the handle of a process that a client has named: PID:INODE, or PID alone.
func identify(s string) (*pidfd.Process, error) {
	id, err := pidfd.ParseIdentity(s)
	if err != nil {
		return nil, err
	}
	return id.Open()
}
