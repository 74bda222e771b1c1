package main

import (
	"context"
	"errors"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/sockwatch/sockwatch/client"
	"github.com/sockwatch/sockwatch/daemon"
	"github.com/sockwatch/sockwatch/notify"
	"github.com/sockwatch/sockwatch/pidfd"
)

// backup is the daemon, where there is one: it takes over when run is killed, who alone knows what CMD and its descendants
// have bound. What run can do without: CMD is not held up, and nothing of it is an error, unless a daemon was named. The zero value is
// no daemon: check wants to see what is left behind.
type backup struct {
	app    *app
	daemon daemonFlags
}

// passReportsOn has what processes report passed on to the daemon, as to any outer watcher. It must be called before the
// first process is started. Where this process is watched itself, that watcher knows where the daemon is.
func (b *backup) passReportsOn() {
	if notify.Enabled() {
		return
	}
	control, err := b.daemon.controlSocket()
	if err != nil {
		return
	}
	path := filepath.Join(filepath.Dir(control), daemon.NotifyName)
	if unix.Access(path, unix.W_OK) == nil {
		_ = os.Setenv(notify.Variable, path)
	}
}

// register has the daemon watch a process as run does. It does not wait for that. done ends what is not done yet.
func (b *backup) register(id pidfd.Identity, c claims) (done func()) {
	if b.app == nil {
		return func() {}
	}
	ctx, cancel := context.WithTimeout(context.Background(), daemonPatience)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		err := b.watch(ctx, c.watchRequest(id))
		switch {
		case err == nil, errors.Is(err, context.Canceled), errors.Is(err, client.ErrNoSuchProcess): // it was quicker
		case b.daemon.runtimeDir != "":
			b.app.complain("not known to the daemon: process %s: %s", id, err)
		case !errors.Is(err, client.ErrNoDaemon):
			b.app.log.Info().Err(err).Stringer("process", id).Msg("not known to the daemon")
		}
	}()
	return func() {
		cancel()
		<-ended
	}
}

func (b *backup) watch(ctx context.Context, request client.WatchRequest) error {
	d, err := b.daemon.dial(ctx)
	if err != nil {
		return err
	}
	defer d.Close()
	_, err = d.Watch(ctx, request)
	return err
}

// watchRequest asks the daemon to watch a process for what the flags say.
func (c claims) watchRequest(id pidfd.Identity) client.WatchRequest {
	r := client.WatchRequest{Process: id.String(), Name: c.Name, Paths: c.Paths, Bindspaces: c.Bindspaces}
	for _, conv := range c.Conventions {
		r.Conventions = append(r.Conventions, conv.String())
	}
	return r
}
