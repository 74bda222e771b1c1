package main

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"time"

	"github.com/sockwatch/sockwatch/client"
	"github.com/sockwatch/sockwatch/pidfd"
)

// remote is the daemon, asked over its control socket. What became of a file is what Monitor tells of it.
type remote struct {
	control string
	clients []*client.Client // one for each connection that was used
	ids     []string         // of the owners
	monitor *client.Client
	next    func() (client.Monitored, error, bool)
	stop    func()
}

// connections is the most that are used.
const connections = 4

func newRemote(control string, n int) (*remote, error) {
	r := &remote{control: control, ids: make([]string, n)}
	for range connections {
		c, err := client.Dial(context.Background(), control)
		if err != nil {
			return nil, errors.Join(err, r.close())
		}
		r.clients = append(r.clients, c)
	}
	return r, nil
}

func (r *remote) add(connection, i, pid int, path string) error {
	p, err := pidfd.Open(pid)
	if err != nil {
		return err
	}
	defer p.Close()
	id, err := p.Identity()
	if err != nil {
		return err
	}
	w, err := r.clients[connection].Watch(context.Background(), client.WatchRequest{Process: id.String(), Paths: []string{path}})
	r.ids[i] = w.ID
	return err
}

// added has the outcomes of what comes from now on told.
func (r *remote) added(int) error {
	var err error
	if r.monitor, err = client.Dial(context.Background(), r.control); err != nil {
		return err
	}
	r.next, r.stop = iter.Pull2(r.monitor.Monitor(context.Background()))
	_, err, _ = r.next() // that it has begun
	return err
}

// drop is on the first connection. Nobody reads what Monitor tells until all are added again, so that ends.
func (r *remote) drop(i int) error {
	return errors.Join(r.endMonitor(), r.clients[0].Unwatch(context.Background(), r.ids[i]))
}

func (r *remote) endMonitor() error {
	if r.monitor == nil {
		return nil
	}
	r.stop()
	err := r.monitor.Close()
	r.monitor = nil
	return err
}

func (r *remote) outcome() (outcome, error) {
	for {
		m, err, ok := r.next()
		switch e := m.Event; {
		case err != nil:
			return outcome{}, err
		case !ok:
			return outcome{}, client.ErrDisconnected
		case e.Type != "outcome":
		case e.Outcome != "removed" || e.AfterExitUS == nil:
			return outcome{}, fmt.Errorf("%s is %s (%s): %s", e.Path.Path, e.Outcome, e.Reason, e.Error)
		default:
			gone, err := time.Parse(time.RFC3339Nano, e.Time)
			return outcome{gone: gone, afterExit: time.Duration(*e.AfterExitUS) * time.Microsecond}, err
		}
	}
}

func (r *remote) close() error {
	err := r.endMonitor()
	for _, c := range r.clients {
		err = errors.Join(err, c.Close())
	}
	return err
}
