package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/sockwatch/sockwatch/pidfd"
	"github.com/sockwatch/sockwatch/reap"
	"github.com/sockwatch/sockwatch/spawn"
	"github.com/sockwatch/sockwatch/watch"
)

func newRunCmd(a *app) *cobra.Command {
	var (
		claims    claimFlags
		killAfter time.Duration
		events    string
	)
	cmd := &cobra.Command{
		Use:     "run [flags] [--] CMD [ARG]...",
		Short:   "Run a command; however it ends, its sock-files go with it",
		GroupID: groupProcesses,
		Long: `Run CMD, and when it has ended, remove the sock-files that it left behind. They
are gone before run returns.

Which files are CMD's is told by flags: a path (--bind), or a directory in which
every sock-file is claimed that CMD itself makes (--bindspace; it is made if it
is missing). A file whose socket is still open, in a child of CMD that lives on
for one, is kept, and run says so.

run is transparent. CMD has run's terminal, standard input and output, and
environment. Every signal that run gets is passed on unchanged, except that what
a terminal sends to the foreground processes has reached CMD already. The exit
status is that of CMD, 128+n when signal n ended it. run prints nothing, unless
a file was kept.

With --kill-after, SIGINT and SIGTERM to run become a hard kill: CMD gets the
signal, and when it is still there after that time, SIGKILL.

--events appends what happens to a file, as JSON, one object per line:

    {"type":"claim"|"exit"|"outcome","time","pid","comm","path","source",
     "outcome","reason","after_exit_us"}`,
		Example: `  # A server that makes its sock-file in /run/myapp
  sockwatch run --bindspace /run/myapp -- myserver

  # One that is told where
  sockwatch run --bind /tmp/redis.sock -- redis-server --port 0 --unixsocket /tmp/redis.sock

  # Ctrl-C asks, and kills after three seconds
  sockwatch run --kill-after 3s --bindspace /run/myapp -- myserver`,
		Args: needArgs("CMD"),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := claims.resolve(filepath.Base(args[0]))
			if err != nil {
				return err
			}
			r := runner{app: a, patience: noPatience}
			if cmd.Flags().Changed("kill-after") {
				if killAfter < 0 {
					return usagef("--kill-after %s: it cannot be negative", killAfter)
				}
				r.patience = patience(killAfter)
			}
			return r.runLogged(args, c, events)
		},
	}
	cmd.Flags().SetInterspersed(false)
	passesStatusOn(cmd)
	claims.register(cmd)
	cmd.Flags().DurationVar(&killAfter, "kill-after", 0, "on SIGINT or SIGTERM, kill CMD when it is still there after `DURATION`; 0 is at once")
	cmd.Flags().StringVar(&events, "events", "", "append events to `FILE`, as JSON lines")
	_ = cmd.RegisterFlagCompletionFunc("kill-after", cobra.NoFileCompletions)
	return cmd
}

// noPatience: run never kills by itself.
const noPatience = 0

// patience is --kill-after as spawn.KillOptions.TerminateAfter: there 0 is the default, and negative is at once.
func patience(d time.Duration) time.Duration {
	if d == 0 {
		return -1
	}
	return d
}

// runner runs one CMD.
type runner struct {
	app      *app
	watcher  *watch.Watcher
	patience time.Duration // as spawn.KillOptions.TerminateAfter, or noPatience

	killing sync.WaitGroup
	killed  bool // a hard kill has begun; of the goroutine that passes signals on
}

// runLogged is the command: it runs CMD with its Events appended to a file, if one is named, and ends as CMD ended.
func (r *runner) runLogged(args []string, c claims, events string) error {
	path, err := findCommand(args[0])
	if err != nil {
		return err
	}
	if r.watcher, err = watch.New(watch.Options{Log: r.app.log}); err != nil {
		return err
	}
	defer r.watcher.Close()
	closeLog := func() error { return nil }
	if events != "" {
		log, err := logEvents(r.watcher, events)
		if err != nil {
			return err
		}
		closeLog = log.close
	}
	exit, results, err := r.run(path, args, c)
	logErr := closeLog()
	if err == nil {
		err = exitAs(exit)
	}
	for _, res := range results {
		if res.Outcome != reap.OutcomeRemoved && res.Outcome != reap.OutcomeGone {
			r.app.complain("kept %s: %s", res.Path, whyKept(res))
		}
	}
	if err == nil {
		return logErr
	}
	if logErr != nil {
		r.app.complain("%s", logErr)
	}
	return err
}

// run runs CMD to its end, with what c says claimed for it, and passes on the signals that come meanwhile. The error is
// that CMD did not run, or that it is not known how it ended.
func (r *runner) run(path string, args []string, c claims) (pidfd.Exit, []reap.Result, error) {
	signals := catchSignals()
	defer signals.release()
	cmd := exec.Command(path, args[1:]...)
	cmd.Args[0] = args[0]
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	child, err := spawn.Start(context.Background(), r.watcher, cmd, watch.OwnerOptions{
		Name: c.Name, Paths: c.Paths, Bindspaces: c.Bindspaces, Conventions: c.Conventions,
	})
	if err != nil {
		return pidfd.Exit{}, nil, explainStart(args[0], err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		signals.each(child, r.pass)
	}()
	waitErr := child.Wait()
	signals.stop()
	<-ended
	r.killing.Wait()
	exit, err := howEnded(child.Owner().Exit(), waitErr)
	return exit, child.Owner().Results(), err
}

// findCommand finds CMD as a shell would, with the exit status that a shell would end with.
func findCommand(name string) (string, error) {
	path, err := exec.LookPath(name)
	if errors.Is(err, exec.ErrDot) { // the user's PATH says so
		err = nil
	}
	if err == nil {
		return path, nil
	}
	return "", explainStart(name, err)
}

// explainStart gives the error of a command that did not start the exit status that env(1) and timeout(1) give it. What
// went wrong before it was tried, with a bindspace for one, is our own failure.
func explainStart(name string, err error) error {
	var look *exec.Error
	var start *fs.PathError
	switch {
	case errors.As(err, &look):
		err = look.Err
	case errors.As(err, &start) && start.Op == "fork/exec":
		err = start.Err
	default:
		return exitWith(statusOwnFailure, err)
	}
	status := statusOwnFailure
	switch {
	case errors.Is(err, exec.ErrNotFound), errors.Is(err, fs.ErrNotExist):
		status = statusNotFound
	case errors.Is(err, fs.ErrPermission), errors.Is(err, unix.ENOEXEC), errors.Is(err, unix.EISDIR):
		status = statusNotExecuted
	}
	return exitWith(status, fmt.Errorf("cannot run %s: %w", name, err))
}

// pass passes a signal on to the child, unless it got it as well.
func (r *runner) pass(sig unix.Signal, reached bool, child *spawn.Child) {
	if r.patience != noPatience && !r.killed && (sig == unix.SIGINT || sig == unix.SIGTERM) {
		r.killed = true
		// Beside this, for the signals that come while the child is waited for.
		r.killing.Go(func() { r.kill(sig, reached, child) })
		return
	}
	if reached {
		return
	}
	if err := child.Signal(sig); err != nil && !errors.Is(err, pidfd.ErrExited) {
		r.app.complain("cannot pass %s on to process %d: %s", unix.SignalName(sig), child.PID(), err)
	}
}

// kill is what SIGINT and SIGTERM are with --kill-after.
func (r *runner) kill(sig unix.Signal, reached bool, child *spawn.Child) {
	o := spawn.KillOptions{Signal: sig, TerminateAfter: r.patience}
	if reached {
		o.Ask = func(context.Context) error { return nil } // it was asked
	}
	if killed := child.HardKill(context.Background(), o); killed.Err != nil {
		r.app.complain("cannot kill process %d: %s", child.PID(), killed.Err)
	}
}

// howEnded tells how the child ended: as the watcher saw it, else as wait(2) told.
func howEnded(exit pidfd.Exit, waitErr error) (pidfd.Exit, error) {
	if exit.Known {
		return exit, nil
	}
	var failed *exec.ExitError
	switch {
	case waitErr == nil:
		return pidfd.Exit{Known: true}, nil
	case !errors.As(waitErr, &failed):
		return exit, fmt.Errorf("the command's exit status is not known: %w", waitErr)
	}
	status, _ := failed.Sys().(unix.WaitStatus)
	if status.Signaled() {
		return pidfd.Exit{Known: true, Signal: status.Signal()}, nil
	}
	return pidfd.Exit{Known: true, Code: status.ExitStatus()}, nil
}

// exitAs ends the program as CMD ended.
func exitAs(exit pidfd.Exit) error {
	switch {
	case exit.Signal != 0:
		return exitWith(128+int(exit.Signal), nil)
	case exit.Code != 0:
		return exitWith(exit.Code, nil)
	}
	return nil
}
