package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/sockwatch/sockwatch/client"
	"github.com/sockwatch/sockwatch/pidfd"
)

// conversing is a program that reads a line for each server, and answers each thing that it has done by an object.
type conversing struct {
	ctx   context.Context
	stage *stage
	side  *side
	// child is the server, where it is started by us; otherwise the program does that.
	child *exec.Cmd
	// reaped is closed when the server is, where that is not for us to delay.
	reaped chan struct{}
}

// stranger guards processes that are not its own children: of ours.
func stranger(argv func(s *stage) []string) func(ctx context.Context, s *stage) (guard, error) {
	return func(ctx context.Context, s *stage) (guard, error) {
		side, err := start(ctx, argv(s))
		if err != nil {
			return nil, err
		}
		return &adopting{conversing{ctx: ctx, stage: s, side: side}}, nil
	}
}

// parent guards its own children.
func parent(argv func(s *stage) []string) func(ctx context.Context, s *stage) (guard, error) {
	return func(ctx context.Context, s *stage) (guard, error) {
		side, err := start(ctx, argv(s))
		if err != nil {
			return nil, err
		}
		return &conversing{ctx: ctx, stage: s, side: side}, nil
	}
}

func (g *conversing) begin() (int, error) {
	if err := g.side.say("start"); err != nil {
		return 0, err
	}
	return g.stage.await()
}

func (g *conversing) process() int { return g.side.cmd.Process.Pid }

func (g *conversing) settle() error { return g.side.answered() }

func (g *conversing) end() error { return g.side.end() }

// adopting is conversing about processes that we have started.
type adopting struct{ conversing }

func (g *adopting) begin() (int, error) {
	var err error
	if g.child, err = g.stage.start(g.ctx); err != nil {
		return 0, err
	}
	pid, err := g.stage.await()
	if err != nil {
		return 0, err
	}
	// It is reaped as soon as it is dead: a poller would see it until then.
	reaped := make(chan struct{})
	g.reaped = reaped
	go func() {
		defer close(reaped)
		_ = g.child.Wait() // killed
	}()
	return pid, errors.Join(g.side.say(fmt.Sprintf("%d %s", pid, filepath.Base(g.stage.path))), g.side.answered())
}

func (g *adopting) settle() error {
	<-g.reaped
	return g.side.answered()
}

// inForeground is a program that starts the server and ends after it.
type inForeground struct {
	ctx   context.Context
	stage *stage
	argv  []string
	cmd   *exec.Cmd
}

func foreground(argv func(s *stage) []string) func(ctx context.Context, s *stage) (guard, error) {
	return func(ctx context.Context, s *stage) (guard, error) {
		return &inForeground{ctx: ctx, stage: s, argv: argv(s)}, nil
	}
}

func (g *inForeground) begin() (int, error) {
	g.cmd = exec.CommandContext(g.ctx, g.argv[0], g.argv[1:]...)
	// No daemon has a part in it. A shell's "Killed" is for nobody.
	g.cmd.Env = append(os.Environ(), client.RuntimeDirEnv+"="+g.stage.state)
	if err := g.cmd.Start(); err != nil {
		return 0, err
	}
	return g.stage.await()
}

func (g *inForeground) process() int { return g.cmd.Process.Pid }

func (g *inForeground) settle() error {
	var ended *exec.ExitError
	if err := g.cmd.Wait(); !errors.As(err, &ended) {
		return err // it ends as the server did, or the shell's rm
	}
	return nil
}

func (g *inForeground) end() error { return nil }

// byDaemonAlone is a daemon.
type byDaemonAlone struct {
	ctx    context.Context
	stage  *stage
	daemon *daemonProcess
	client *client.Client
	child  *exec.Cmd
	traced bool // it is told nothing
}

// registered has servers registered with a daemon.
func registered(program string) func(ctx context.Context, s *stage) (guard, error) {
	return func(ctx context.Context, s *stage) (guard, error) {
		return startGuardDaemon(ctx, s, program, "")
	}
}

// seenByTrace has a daemon see by itself what servers bind, and remove it by a rule.
func seenByTrace(program string) func(ctx context.Context, s *stage) (guard, error) {
	return func(ctx context.Context, s *stage) (guard, error) {
		dir, err := filepath.EvalSymlinks(s.serverDir())
		if err != nil {
			return nil, err
		}
		return startGuardDaemon(ctx, s, program, fmt.Sprintf("[[rule]]\npath = [%q]\naction = \"reap\"\n", dir+"/**"), "--trace")
	}
}

func startGuardDaemon(ctx context.Context, s *stage, program, config string, args ...string) (guard, error) {
	d, err := startDaemon(ctx, program, s.state, config, args...)
	if err != nil {
		return nil, err
	}
	c, err := client.Dial(ctx, d.control())
	if err != nil {
		return nil, errors.Join(err, d.end())
	}
	return &byDaemonAlone{ctx: ctx, stage: s, daemon: d, client: c, traced: len(args) > 0}, nil
}

func (g *byDaemonAlone) begin() (pid int, err error) {
	if g.child, err = g.stage.start(g.ctx); err != nil {
		return 0, err
	}
	if pid, err = g.stage.await(); err != nil {
		return 0, err
	}
	if g.traced {
		return pid, g.awaitSeen(pid)
	}
	p, err := pidfd.Open(pid)
	if err != nil {
		return 0, err
	}
	defer p.Close()
	id, err := p.Identity()
	if err != nil {
		return 0, err
	}
	_, err = g.client.Watch(g.ctx, client.WatchRequest{Process: id.String(), Paths: []string{g.stage.path}})
	return pid, err
}

// awaitSeen returns when the daemon has found the server by itself.
func (g *byDaemonAlone) awaitSeen(pid int) error {
	const patient = 1000
	for range patient {
		owners, err := g.client.List(g.ctx)
		if err != nil {
			return err
		}
		for _, o := range owners {
			if o.PID == pid && len(o.Claims) > 0 && !o.Claims[0].Pending {
				return nil
			}
		}
		if err := wait(g.ctx, look); err != nil {
			return err
		}
	}
	return errors.New("the daemon did not see the server")
}

func (g *byDaemonAlone) process() int { return g.daemon.cmd.Process.Pid }

func (g *byDaemonAlone) settle() error {
	_ = g.child.Wait() // killed
	return nil
}

func (g *byDaemonAlone) end() error { return errors.Join(g.client.Close(), g.daemon.end()) }
