package spawn

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/sockwatch/sockwatch/notify"
	"github.com/sockwatch/sockwatch/pidfd"
	"github.com/sockwatch/sockwatch/reap"
	"github.com/sockwatch/sockwatch/watch"
)

// Child is a child process whose sock-files are removed at its end. Safe for concurrent use.
type Child struct {
	owner *watch.Owner
	cmd   *exec.Cmd

	once    sync.Once
	waitErr error
}

// Start starts cmd, which must not have been started, with what o says claimed for it. Nothing is missed between its
// start and the watching. By notify.Variable in its environment it, and all below it, can report what they bind.
//
// ctx is for the start alone: when it is done by the end of it, the child is killed, what it left behind is removed, and
// the error is that of ctx. To bound the child's life use exec.CommandContext.
//
// On error no process is left. Errors: those of exec.Cmd.Start, watch.ErrLimit, watch.ErrClosed.
func Start(ctx context.Context, w *watch.Watcher, cmd *exec.Cmd, o watch.OwnerOptions) (*Child, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	owner, err := w.Prepare(o)
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", cmd.Path, err)
	}
	if path, err := w.Notify(); err == nil { // else the Watcher has logged it, and the child cannot report
		cmd.Env = append(cmd.Environ(), notify.Variable+"="+path)
	}
	if err := cmd.Start(); err != nil {
		_ = owner.Release()
		return nil, err
	}
	if err := attach(owner, cmd); err != nil {
		_ = owner.Release()
		return nil, fmt.Errorf("start %s: %w", cmd.Path, errors.Join(err, abandon(cmd, o)))
	}
	c := &Child{owner: owner, cmd: cmd}
	if err := ctx.Err(); err != nil {
		c.HardKill(context.WithoutCancel(ctx), KillOptions{TerminateAfter: -1})
		return nil, err
	}
	return c, nil
}

func attach(owner *watch.Owner, cmd *exec.Cmd) error {
	p, err := pidfd.FromProcess(cmd.Process)
	if err != nil {
		return err
	}
	if err := owner.Attach(p); err != nil {
		_ = p.Close()
		return err
	}
	return nil
}

// abandon ends a child that cannot be watched.
func abandon(cmd *exec.Cmd, o watch.OwnerOptions) error {
	err := cmd.Process.Kill()
	_ = cmd.Wait() // that it was killed is no news
	for _, r := range reap.AfterKill(reap.Target{
		Paths: o.Paths, Name: o.Name, PID: cmd.Process.Pid, Bindspaces: o.Bindspaces, Conventions: o.Conventions,
	}) {
		if !r.Outcome.OK() {
			err = errors.Join(err, fmt.Errorf("%s: %s: %w", r.Path, r.Outcome, r.Err))
		}
	}
	return err
}

// Owner is what the Watcher knows of the child.
func (c *Child) Owner() *watch.Owner { return c.owner }

// PID is the child's process id.
func (c *Child) PID() int { return c.cmd.Process.Pid }

// Wait waits for the child to end, reaps it, and waits until its claims are settled: when it returns, the child's
// sock-files are gone, or Owner().Results() says why not. The error is that of exec.Cmd.Wait. It may be called
// any number of times.
//
// No thread is blocked while the child runs.
func (c *Child) Wait() error {
	<-c.owner.Exited()
	c.once.Do(func() { c.waitErr = c.cmd.Wait() })
	<-c.owner.Settled()
	return c.waitErr
}

// Signal sends a signal to the child. pidfd.ErrExited when it has ended and was reaped.
func (c *Child) Signal(sig unix.Signal) error {
	if err := c.cmd.Process.Signal(sig); err != nil {
		if errors.Is(err, os.ErrProcessDone) {
			return pidfd.ErrExited
		}
		return fmt.Errorf("signal process %d: %w", c.PID(), err)
	}
	return nil
}
