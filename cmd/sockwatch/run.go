package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
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
		Long: `Run CMD, and when it has ended, remove the sock-files that it left behind. They are gone before run returns.

Which files are CMD's is told by flags: a path (--bind), or a directory in which every sock-file is claimed that CMD
itself makes (--bindspace). A file whose socket is still open, in a child of CMD that lives on for one, is kept, and run says so.

run is transparent. CMD has run's terminal, standard input and output, and environment. Every signal that run gets is
passed on unchanged, except that what a terminal sends to the foreground processes has reached CMD already. The exit
status is that of CMD, 128+n when signal n ended it. run prints nothing, unless a file was kept.

With --kill-after, SIGINT and SIGTERM to run become a hard kill: CMD gets the signal, and when it is still
there after that time, SIGKILL.

--events appends what happens to a file, as JSON, one object per line:
  {"type":"claim"|"exit"|"outcome","time","pid","comm","path","source","outcome","reason","after_exit_us"}`,
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
			r := runner{app: a, events: events, patience: noPatience}
			if cmd.Flags().Changed("kill-after") {
				if killAfter < 0 {
					return usagef("--kill-after %s: it cannot be negative", killAfter)
				}
				r.patience = patience(killAfter)
			}
			return r.run(args, c)
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
	events   string
	patience time.Duration // as spawn.KillOptions.TerminateAfter, or noPatience
}

func (r runner) run(args []string, c claims) (err error) {
	path, err := findCommand(args[0])
	if err != nil {
		return err
	}
	w, err := watch.New(watch.Options{Log: r.app.log})
	if err != nil {
		return err
	}
	defer w.Close()
	if r.events != "" {
		log, err := logEvents(w, r.events)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, log.close()) }()
	}

	signals := catchSignals()
	defer signals.release()
	cmd := exec.Command(path, args[1:]...)
	cmd.Args[0] = args[0]
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	child, err := spawn.Start(context.Background(), w, cmd, watch.OwnerOptions{
		Name: c.Name, Paths: c.Paths, Bindspaces: c.Bindspaces, Conventions: c.Conventions,
	})
	if err != nil {
		return explainStart(args[0], err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		signals.each(func(sig unix.Signal, reached bool) { r.pass(sig, reached, child) })
	}()
	waitErr := child.Wait()
	signals.stop()
	<-ended

	r.sayKept(child.Owner().Results())
	return r.status(child.Owner().Exit(), waitErr)
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

// explainStart gives the error of a command that did not start the exit status that env(1) and timeout(1) give it.
func explainStart(name string, err error) error {
	status := statusOwnFailure
	switch {
	case errors.Is(err, exec.ErrNotFound), errors.Is(err, fs.ErrNotExist):
		status = statusNotFound
	case errors.Is(err, fs.ErrPermission), errors.Is(err, unix.ENOEXEC), errors.Is(err, unix.EISDIR):
		status = statusNotExecuted
	}
	var exec *exec.Error
	if errors.As(err, &exec) {
		err = exec.Err
	}
	return exitWith(status, fmt.Errorf("cannot run %s: %w", name, err))
}

// pass passes a signal on to the child, unless it got it as well.
func (r runner) pass(sig unix.Signal, reached bool, child *spawn.Child) {
	if r.patience != noPatience && (sig == unix.SIGINT || sig == unix.SIGTERM) {
		o := spawn.KillOptions{Signal: sig, TerminateAfter: r.patience}
		if reached {
			o.Ask = func(context.Context) error { return nil } // it was asked
		}
		child.HardKill(context.Background(), o)
		return
	}
	if reached {
		return
	}
	if err := child.Signal(sig); err != nil && !errors.Is(err, pidfd.ErrExited) {
		r.app.complain("cannot pass %s on to process %d: %s", unix.SignalName(sig), child.PID(), err)
	}
}

// sayKept is all that run ever says by itself.
func (r runner) sayKept(results []reap.Result) {
	for _, res := range results {
		if res.Outcome == reap.OutcomeRemoved || res.Outcome == reap.OutcomeGone {
			continue
		}
		r.app.complain("kept %s: %s", res.Path, whyKept(res))
	}
}

// status ends run as the child ended.
func (r runner) status(exit pidfd.Exit, waitErr error) error {
	var failed *exec.ExitError
	switch {
	case !exit.Known && waitErr != nil && !errors.As(waitErr, &failed):
		return fmt.Errorf("the command's exit status is not known: %w", waitErr)
	case !exit.Known && failed != nil:
		status, _ := failed.Sys().(unix.WaitStatus)
		exit = pidfd.Exit{Known: true, Code: status.ExitStatus()}
		if status.Signaled() {
			exit.Signal = status.Signal()
		}
	}
	switch {
	case exit.Signal != 0:
		return exitWith(128+int(exit.Signal), nil)
	case exit.Code != 0:
		return exitWith(exit.Code, nil)
	}
	return nil
}
