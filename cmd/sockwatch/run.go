package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/sockwatch/sockwatch/internal/sys"
	"github.com/sockwatch/sockwatch/pidfd"
	"github.com/sockwatch/sockwatch/reap"
	"github.com/sockwatch/sockwatch/spawn"
	"github.com/sockwatch/sockwatch/watch"
)

func newRunCmd(a *app) *cobra.Command {
	var (
		claims    claimFlags
		killAfter time.Duration
		waitTree  bool
		events    string
		daemon    daemonFlags
	)
	cmd := &cobra.Command{
		Use:     "run [flags] [--] CMD [ARG]...",
		Short:   "Run a command; however it ends, its sock-files go with it",
		GroupID: groupProcesses,
		Long: `Run CMD, and when it has ended, remove the sock-files that it left behind. They
are gone before run returns.

Which files are meant is told by flags: a path (--bind), or a directory in which
every sock-file is claimed that CMD or a descendant of it makes (--bindspace; it
is made if it is missing, and watched again when it is removed and made anew).
And they may say so: a process that sends BIND=PATH to the socket that
SOCKWATCH_NOTIFY names in its environment needs no flag ('sockwatch notify' does
it for scripts).

Each file goes at the end of the process that made it, also while CMD goes on. A
file whose socket is still open then, in a child for one, goes with the last
process that has it. What is there when run ends is kept, and run says so.

run is transparent. CMD has run's terminal, standard input and output, and
environment. Every signal that run gets is passed on unchanged, except that what
a terminal sends to the foreground processes has reached CMD already. The exit
status is that of CMD, 128+n when signal n ended it. run prints nothing, unless
a file was kept.

With --kill-after, SIGINT and SIGTERM to run become a hard kill: CMD gets the
signal, and when it is still there after that time, SIGKILL.

Descendants of CMD whose parent ends are adopted by run, which reaps them. run
ends when CMD does, and leaves those alone that live on. With --wait-tree it
ends when the last one has, with the exit status of CMD all the same. After
CMD's end signals are passed on to those that run has adopted, and --kill-after
is for them as well: they are sent the signal, and whoever is left after that
time SIGKILL.

As process 1, of a container for one, run ends what CMD leaves behind: it sends
SIGTERM to all, and SIGKILL after the time of --kill-after, or 10 seconds. Their
sock-files go, too. With --wait-tree it waits for them instead.

Where there is a daemon, run has it watch as well: it cleans up when run itself
is killed. It is found as by 'sockwatch watch', and neither needed nor waited
for.

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
			r := runner{app: a, patience: noPatience, waitTree: waitTree, init: os.Getpid() == 1, backup: backup{a, daemon}}
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
	daemon.register(cmd)
	cmd.Flags().DurationVar(&killAfter, "kill-after", 0, "on SIGINT or SIGTERM, kill CMD when it is still there after `DURATION`; 0 is at once")
	cmd.Flags().BoolVar(&waitTree, "wait-tree", false, "return when the last descendant of CMD has ended")
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
	waitTree bool
	init     bool // it is process 1 of its pid namespace, and its end is that of all others there
	tree     *tree
	backup   backup

	killing sync.WaitGroup
	killed  bool // a hard kill has begun; of the goroutine that passes signals on
}

// runLogged is the command: it runs CMD with its Events appended to a file, if one is named, and ends as CMD ended.
func (r *runner) runLogged(args []string, c claims, events string) error {
	path, err := findCommand(args[0])
	if err != nil {
		return err
	}
	if err := sys.BecomeSubreaper(); err != nil {
		return fmt.Errorf("adopt orphaned descendants: %w", err)
	}
	if r.watcher, err = watch.New(watch.Options{Log: r.app.log}); err != nil {
		return err
	}
	defer r.watcher.Close()
	r.backup.passReportsOn()
	closeLog := func() error { return nil }
	if events != "" {
		log, err := logEvents(r.watcher, events)
		if err != nil {
			return err
		}
		closeLog = log.close
	}
	exit, owner, err := r.run(path, args, c)
	if owner != nil {
		r.tellKept(owner)
	}
	logErr := closeLog()
	if err == nil {
		err = exitAs(exit)
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
func (r *runner) run(path string, args []string, c claims) (pidfd.Exit, *watch.Owner, error) {
	signals, err := catchSignals()
	if err != nil {
		return pidfd.Exit{}, nil, err
	}
	defer signals.Release()
	cmd := exec.Command(path, args[1:]...)
	cmd.Args[0] = args[0]
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	child, err := spawn.Start(context.Background(), r.watcher, cmd, watch.OwnerOptions{
		Name: c.Name, Paths: c.Paths, Bindspaces: c.Bindspaces, Conventions: c.Conventions, Linger: true,
	})
	if err != nil {
		return pidfd.Exit{}, nil, explainStart(args[0], err)
	}
	// Not before CMD runs: os/exec tries out with a child of its own what the kernel can do.
	r.tree = newTree(r.app, child.PID())
	registered := r.backup.register(child.Owner().Identity(), c)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		signals.each(child, r.pass, r.tree.reap)
	}()
	waitErr := child.Wait()
	registered()
	r.tree.cmdReaped()
	r.outlast()
	signals.Stop()
	<-ended
	r.killing.Wait()
	r.watcher.SettleEnded()
	exit, err := howEnded(child.Owner().Exit(), waitErr)
	return exit, child.Owner(), err
}

// tellKept says which sock-files of CMD's tree are still there, and why.
func (r *runner) tellKept(owner *watch.Owner) {
	living := r.livingOn(owner) // first: it may add to what is kept
	told := map[string]bool{}
	for _, res := range owner.Results() {
		if res.Outcome != reap.OutcomeRemoved && res.Outcome != reap.OutcomeGone {
			r.app.complain("kept %s: %s", res.Path, whyKept(res))
			told[res.Path] = true
		}
	}
	for _, l := range living {
		if !told[l.path] {
			r.app.complain("kept %s: its process %d (%s) lives on", l.path, l.pid, l.comm)
		}
	}
}

// livingFile is a sock-file whose owner lives on when run ends: nobody will clean up after it.
type livingFile struct {
	path string
	pid  int
	comm string
}

// livingOn gives the sock-files of CMD's descendants that live on, by path.
func (r *runner) livingOn(owner *watch.Owner) []livingFile {
	var living []livingFile
	for _, o := range r.watcher.Owners() {
		if o.Root() != owner {
			continue
		}
		select {
		case <-o.Exited():
			<-o.Settled() // it has ended just now, and its files are not left to the next sweep
			continue
		default:
		}
		for _, c := range o.Claims() {
			if _, err := os.Lstat(c.Path()); err == nil { // else it has removed what it reported, and need not tell
				living = append(living, livingFile{c.Path(), o.Identity().PID, o.Comm()})
			}
		}
	}
	slices.SortFunc(living, func(a, b livingFile) int { return strings.Compare(a.path, b.path) })
	return living
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

// initPatience is how long process 1 waits for those whom it has asked to end, unless --kill-after says. Tests have more of it.
var initPatience = 10 * time.Second

// outlast waits for the descendants that CMD has left behind, if that is to be done. As process 1 it ends them.
func (r *runner) outlast() {
	switch {
	case r.waitTree:
		<-r.tree.gone
	case r.init:
		patience := r.patience
		if patience == noPatience {
			patience = initPatience
		}
		r.endRest(patience, func() { r.signalAll(unix.SIGTERM) })
	}
}

// endRest ends what CMD has left behind.
func (r *runner) endRest(patience time.Duration, ask func()) {
	if patience > 0 {
		ask()
		select {
		case <-r.tree.gone:
			return
		case <-time.After(patience):
		}
	}
	if r.init {
		r.signalAll(unix.SIGKILL)
	}
	r.tree.kill()
	<-r.tree.gone
}

// signalAll sends a signal to all other processes of our pid namespace.
func (r *runner) signalAll(sig unix.Signal) {
	if err := sys.KillAll(sig); err != nil && !errors.Is(err, unix.ESRCH) {
		r.app.complain("cannot send %s to all processes: %s", unix.SignalName(sig), err)
	}
}

// pass passes a signal on to the child, unless it got it as well.
func (r *runner) pass(sig unix.Signal, reached bool, child *spawn.Child) {
	if r.patience != noPatience && !r.killed && (sig == unix.SIGINT || sig == unix.SIGTERM) {
		r.killed = true
		// Beside this, for the signals that come while the child is waited for.
		r.killing.Go(func() {
			r.kill(sig, reached, child)
			if r.waitTree {
				r.endRest(r.patience, func() { r.tree.signal(sig, reached) })
			}
		})
		return
	}
	if hasEnded(child) {
		r.passToRest(sig, reached)
		return
	}
	if reached {
		return
	}
	if err := child.Signal(sig); err != nil && !errors.Is(err, pidfd.ErrExited) {
		r.app.complain("cannot pass %s on to process %d: %s", unix.SignalName(sig), child.PID(), err)
	}
}

// passToRest passes a signal on after the child's end, if there is something that is waited for.
func (r *runner) passToRest(sig unix.Signal, reached bool) {
	if !r.waitTree && !r.init {
		return
	}
	r.tree.signal(sig, reached)
	if sig == unix.SIGTSTP && reached {
		stopAsJob() // there is no child to follow
	}
}

// kill is what SIGINT and SIGTERM are with --kill-after. A child that has ended already is left alone.
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
