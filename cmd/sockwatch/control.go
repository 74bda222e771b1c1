package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/sockwatch/sockwatch/client"
)

// daemonFlags say which daemon a command talks to.
type daemonFlags struct {
	runtimeDir string
}

func (f *daemonFlags) register(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.runtimeDir, "runtime-dir", "", "the daemon is the one with its sockets in `DIR`")
	_ = cmd.MarkFlagDirname("runtime-dir")
}

// dial connects to the daemon, for a command that can do nothing without it.
func (f *daemonFlags) dial(ctx context.Context) (*client.Client, error) {
	addr, err := f.controlSocket()
	var c *client.Client
	if err == nil {
		c, err = client.Dial(ctx, addr)
	}
	if errors.Is(err, client.ErrNoDaemon) {
		return nil, fmt.Errorf("%w; 'sockwatch daemon' starts one", err)
	}
	return c, err
}

// controlSocket gives the path of the daemon's control socket. Where one was named it is not looked whether it is there.
func (f *daemonFlags) controlSocket() (string, error) {
	if f.runtimeDir != "" {
		return filepath.Join(f.runtimeDir, client.ControlName), nil
	}
	return client.ControlSocket()
}

// daemonPatience is how long a command waits for a daemon that it can do without. Tests have more of it.
var daemonPatience = 2 * time.Second

// ask asks the daemon, where there is one, for what else a command may tell. That it cannot be asked is told and is no
// failure; that there is none, or none for this user, is as usual, unless one was named.
func (f *daemonFlags) ask(ctx context.Context, a *app, question func(context.Context, *client.Client) error) {
	ctx, cancel := context.WithTimeout(ctx, daemonPatience)
	defer cancel()
	c, err := f.dial(ctx)
	if err == nil {
		defer c.Close()
		err = question(ctx, c)
	}
	usual := errors.Is(err, client.ErrNoDaemon) || errors.Is(err, client.ErrNotPermitted)
	switch {
	case err == nil, usual && f.runtimeDir == "":
	case errors.Is(err, context.DeadlineExceeded):
		a.complain("what the daemon knows is left out: it has not answered for %s", daemonPatience)
	default:
		a.complain("what the daemon knows is left out: %s", err)
	}
}
