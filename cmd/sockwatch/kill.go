package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/sockwatch/sockwatch/client"
	"github.com/sockwatch/sockwatch/internal/proc"
	"github.com/sockwatch/sockwatch/pidfd"
	"github.com/sockwatch/sockwatch/reap"
	"github.com/sockwatch/sockwatch/spawn"
)

func newKillCmd(a *app) *cobra.Command {
	var (
		claims    claimFlags
		daemon    daemonFlags
		asks      = signalFlag(unix.SIGTERM)
		killAfter time.Duration
		tree      bool
		asJSON    bool
	)
	cmd := &cobra.Command{
		Use:     "kill [flags] PID...",
		Short:   "Kill processes for good, and remove their sock-files",
		GroupID: groupProcesses,
		Long: `Kill each process for good: ask it to end by a signal, wait, send SIGKILL if it
is still there, wait for its end. Then remove the sock-files that it has left
behind.

Which these are, the process itself tells: before a signal is sent, and again
before SIGKILL, kill looks at the sockets that it has open. Some processes
cannot be looked at without root, ssh-agent and those of other users for
example; what they bind can be told by flags: a path (--bind), or a directory
(--bindspace) and how the files in it are named (--convention). With several
processes it is told of all of them. Whatever happened before, files are removed
only if they are dead. Where a sockwatch daemon has claims for a process that
cannot be looked at, those are left to it.

PID is a process id, or PID:INODE, which no other process can come to have:
sockwatch prints it, and so does getino(1). All processes are killed at the same
time. An interrupt (Ctrl-C) ends the wait: SIGKILL follows at once.

For each process it prints a line that says how it ended, and one for each
sock-file, with what became of it: removed, gone (somebody else removed it, or
it never was there), alive (kept: some process has it open), replaced (kept:
another file has its name by now), unknown, refused or failed. With --json these
are objects, one per line:

    {"type":"process","time","pid","inode","comm","ended","killed",
     "exit","daemon_claims","error"}
    {"type":"file","time","pid","comm","path","outcome","reason","error"}

"killed" says that SIGKILL was needed. A file that was told by a path has no
pid.

The exit status is 1 if there is no such process, one may not be killed or does
not end, what it has open could not be seen and nothing was told, or a file was
unknown, refused or failed. A process that ends by itself meanwhile is no
failure.`,
		Example: `  # Ask, and kill after 1.6 seconds
  sockwatch kill 1234

  # Kill at once, with all its descendants
  sockwatch kill --kill-after 0 --tree 1234

  # An agent that cannot be looked at
  sockwatch kill --bind "$SSH_AUTH_SOCK" "$SSH_AGENT_PID"

  # Files that are named by name and pid
  sockwatch kill --preset tractor --name worker 1234`,
		Args: needArgs("PID"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if killAfter < 0 {
				return usagef("--kill-after %s: it cannot be negative", killAfter)
			}
			ids, err := parseVictims(args)
			if err != nil {
				return err
			}
			c, err := claims.resolve("")
			if err != nil {
				return err
			}
			k := killer{app: a, daemon: daemon, claims: c, asJSON: asJSON}
			k.options = spawn.KillOptions{Signal: unix.Signal(asks), TerminateAfter: patience(killAfter), Tree: tree}
			return k.kill(cmd.Context(), ids)
		},
	}
	flags := cmd.Flags()
	flags.Var(&asks, "signal", "ask by `SIGNAL`, a name or a number")
	flags.DurationVar(&killAfter, "kill-after", spawn.DefaultTerminateAfter, "send SIGKILL when it is still there after `DURATION`; 0 is at once")
	flags.BoolVar(&tree, "tree", false, "kill all its descendants, too, but this sockwatch")
	claims.register(cmd)
	daemon.register(cmd)
	jsonFlag(cmd, &asJSON)
	cmd.ValidArgsFunction = cobra.NoFileCompletions
	_ = cmd.RegisterFlagCompletionFunc("kill-after", cobra.NoFileCompletions)
	_ = cmd.RegisterFlagCompletionFunc("signal", cobra.FixedCompletions(signalNames(), cobra.ShellCompDirectiveNoFileComp))
	return cmd
}

// signalFlag is the value of --signal.
type signalFlag unix.Signal

func (s *signalFlag) String() string {
	name := unix.SignalName(unix.Signal(*s))
	if name == "" {
		return strconv.Itoa(int(*s))
	}
	return strings.TrimPrefix(name, "SIG")
}

func (s *signalFlag) Set(text string) error {
	if n, err := strconv.Atoi(text); err == nil {
		if n < 1 || n > 64 {
			return errors.New("signals are numbered from 1 to 64")
		}
		*s = signalFlag(n)
		return nil
	}
	name := strings.ToUpper(text)
	sig := unix.SignalNum("SIG" + strings.TrimPrefix(name, "SIG"))
	if sig == 0 {
		return errors.New("no such signal; kill -l lists them")
	}
	*s = signalFlag(sig)
	return nil
}

func (s *signalFlag) Type() string { return "SIGNAL" }

// signalNames are the names that --signal takes.
func signalNames() []string {
	var names []string
	for sig := signalFlag(1); sig < 32; sig++ {
		names = append(names, sig.String())
	}
	return names
}

// parseVictims reads the arguments, each one once. Nobody means pid 1 or the program itself.
func parseVictims(args []string) ([]pidfd.Identity, error) {
	var ids []pidfd.Identity
	for _, arg := range args {
		id, err := pidfd.ParseIdentity(arg)
		switch {
		case err != nil:
			return nil, usagef("%w", err)
		case id.PID == 1:
			return nil, usagef("%s is the process that all others depend on: it is not killed", arg)
		case id.PID == os.Getpid():
			return nil, usagef("%s is this sockwatch itself", arg)
		}
		if !slices.Contains(ids, id) {
			ids = append(ids, id)
		}
	}
	return ids, nil
}

// killer kills some processes and tells what became of them.
type killer struct {
	app     *app
	daemon  daemonFlags
	options spawn.KillOptions
	claims  claims
	asJSON  bool

	failed bool
}

// victim is one of the processes.
type victim struct {
	id      pidfd.Identity // as it was given
	process *pidfd.Process // nil where there is none
	comm    string
	watched int // claims that the daemon has for it, where it cannot be looked at
	result  spawn.KillResult
}

func (v *victim) String() string {
	if v.comm == "" {
		return fmt.Sprintf("process %d", v.id.PID)
	}
	return fmt.Sprintf("process %d (%s)", v.id.PID, v.comm)
}

func (k *killer) kill(ctx context.Context, ids []pidfd.Identity) error {
	ctx, stop := untilInterrupted(ctx)
	defer stop()
	victims := make([]victim, len(ids))
	var killing sync.WaitGroup
	// First all are opened: no pid is given out again while others are killed.
	for i, id := range ids {
		v := &victims[i]
		v.id = id
		if v.process, v.result.Err = id.Open(); v.result.Err != nil {
			continue
		}
		defer v.process.Close()
		if info, err := v.process.Info(); err == nil {
			v.comm = info.Comm
		}
	}
	k.askDaemon(ctx, victims)
	for i := range victims {
		killing.Go(func() { k.killOne(ctx, &victims[i]) })
	}
	killing.Wait()

	// Only now is dead what more than one of them had open.
	told := reap.AfterKill(reap.Target{Paths: k.claims.Paths})
	told = k.settleShared(victims, told)
	for i := range victims {
		k.tellVictim(&victims[i])
		for _, r := range victims[i].result.Files {
			k.tellFile(r, &victims[i])
		}
	}
	for _, r := range told {
		k.tellFile(r, nil)
	}
	if k.failed {
		return exitWith(statusFailed, nil)
	}
	return nil
}

// askDaemon finds out how much the daemon has claimed for those that cannot be looked at. It knows no more when they have ended.
func (k *killer) askDaemon(ctx context.Context, victims []victim) {
	var unseen []*victim
	for i := range victims {
		if v := &victims[i]; v.process != nil && !visible(v.id.PID) {
			unseen = append(unseen, v)
		}
	}
	if len(unseen) == 0 {
		return
	}
	k.daemon.ask(ctx, k.app, func(ctx context.Context, d *client.Client) error {
		owners, err := d.List(ctx)
		if err != nil {
			return err
		}
		for _, v := range unseen {
			id, err := v.process.Identity()
			if err != nil {
				continue // it has ended
			}
			for _, o := range owners {
				if o.Process == id.String() {
					v.watched += len(o.Claims)
				}
			}
		}
		return nil
	})
}

// visible tells whether we may see what a process has open.
func visible(pid int) bool {
	for _, err := range proc.FS("").Sockets(pid) {
		return err == nil
	}
	return true
}

// killOne kills one process. Where there is none, what was told of it is treated all the same.
func (k *killer) killOne(ctx context.Context, v *victim) {
	target := reap.Target{
		Name: k.claims.Name, PID: v.id.PID, Bindspaces: k.claims.Bindspaces, Conventions: k.claims.Conventions,
	}
	if v.process == nil {
		v.result.Files = reap.AfterKill(target)
		return
	}
	v.result = spawn.HardKill(ctx, v.process, k.options, target)
}

// settleShared gives each path one Result. A file that several of the processes had open was alive until the last of them
// ended, and what one removed is gone for the others.
func (k *killer) settleShared(victims []victim, told []reap.Result) []reap.Result {
	last := map[string]reap.Result{}
	note := func(r reap.Result) {
		if known, ok := last[r.Path]; !ok || weight(r) > weight(known) {
			last[r.Path] = r
		}
	}
	for _, v := range victims {
		for _, r := range v.result.Files {
			note(r)
		}
	}
	for _, r := range told {
		note(r)
	}
	settle := func(results []reap.Result) []reap.Result {
		var kept []reap.Result
		for _, r := range results {
			if final, ok := last[r.Path]; ok {
				kept = append(kept, final)
				delete(last, r.Path)
			}
		}
		return kept
	}
	for i := range victims {
		victims[i].result.Files = settle(victims[i].result.Files)
	}
	return settle(told)
}

// weight orders the Results of one path by how much they tell.
func weight(r reap.Result) int {
	switch r.Outcome {
	case reap.OutcomeRemoved:
		return 3
	case reap.OutcomeAlive: // unless it was removed later
		return 1
	case reap.OutcomeGone:
		return 0
	default:
		return 2
	}
}

// tellVictim says how a process ended.
func (k *killer) tellVictim(v *victim) {
	j := jsonProcess{Type: "process", Time: jsonTime(time.Now()), PID: v.id.PID, Inode: v.id.Inode, Comm: v.comm, Killed: v.result.Killed}
	exit := v.result.Exit
	if v.process != nil {
		j.Ended, _ = v.process.Exited()
		if !exit.Known { // its parent may have waited for it since
			exit = v.process.Exit()
		}
		if id, err := v.process.Identity(); err == nil {
			j.Inode = id.Inode
		}
	}
	if exit.Known {
		j.Exit = exit.String()
	}
	if v.result.SnapshotErr != nil {
		j.DaemonClaims = v.watched
	}
	err := k.explain(v)
	if err != nil {
		k.failed = true
		j.Error = oneLine(err)
	}
	switch {
	case k.asJSON:
		k.app.stdout.object(j)
	case v.process == nil: // the complaint says it all
	case !j.Ended:
		k.app.stdout.printf("%s: still there\n", v)
	case exit.Known:
		k.app.stdout.printf("%s: ended, %s\n", v, exit)
	case j.Killed:
		k.app.stdout.printf("%s: ended after SIGKILL\n", v)
	default:
		k.app.stdout.printf("%s: ended\n", v)
	}
	if j.DaemonClaims > 0 && !k.asJSON {
		k.app.stdout.printf("%s: %s left to the daemon\n", v, errors.New(countOf(j.DaemonClaims, "claim")))
	}
	if err != nil {
		k.app.complain("%s", errors.New(oneLine(err)))
	}
}

// explain gives what went wrong with a process; nil if nothing did.
func (k *killer) explain(v *victim) error {
	err := v.result.Err
	switch {
	case v.process == nil && errors.Is(err, pidfd.ErrExited):
		return fmt.Errorf("there is no process %s: %w", v.id, err)
	case errors.Is(err, pidfd.ErrPermission):
		return fmt.Errorf("%s may not be killed by this user: %w", v, err)
	case err != nil:
		return err
	case v.result.SnapshotErr != nil && v.watched+len(k.claims.Paths)+len(k.claims.Conventions) == 0:
		return fmt.Errorf("what %s had bound could not be seen, so files may be left (--bind PATH names them): %w",
			v, v.result.SnapshotErr)
	}
	return nil
}

// tellFile says what became of a sock-file; v is nil for one that was told by its path.
func (k *killer) tellFile(r reap.Result, v *victim) {
	if !r.Outcome.OK() {
		k.failed = true
	}
	if !k.asJSON {
		k.app.stdout.printResult(r)
		return
	}
	j := jsonFile{Type: "file", Time: jsonTime(time.Now()), jsonResult: newJSONResult(r)}
	if v != nil {
		j.PID, j.Comm = v.id.PID, v.comm
	}
	k.app.stdout.object(j)
}

// jsonProcess is a process that was killed, in the JSON interface.
type jsonProcess struct {
	Type   string   `json:"type"` // "process"
	Time   jsonTime `json:"time"`
	PID    int      `json:"pid"`
	Inode  uint64   `json:"inode,omitempty"` // pidfs; before Linux 6.9 there is none
	Comm   string   `json:"comm,omitempty"`
	Ended  bool     `json:"ended"`
	Killed bool     `json:"killed"`
	Exit   string   `json:"exit,omitempty"` // as far as it is known
	// DaemonClaims are left to the daemon: what the process had open could not be seen.
	DaemonClaims int `json:"daemon_claims,omitempty"`

	Error string `json:"error,omitempty"`
}

// jsonFile is a sock-file of such a process.
type jsonFile struct {
	Type string   `json:"type"` // "file"
	Time jsonTime `json:"time"`
	PID  int      `json:"pid,omitempty"`
	Comm string   `json:"comm,omitempty"`
	jsonResult
}
