package main

import (
	"context"
	"errors"
	"fmt"
	"os/user"
	"strconv"
	"strings"
	"time"

	"github.com/bmatcuk/doublestar/v4"
	"github.com/spf13/cobra"

	"github.com/sockwatch/sockwatch/ebpf"
	"github.com/sockwatch/sockwatch/internal/config"
	"github.com/sockwatch/sockwatch/internal/proc"
	"github.com/sockwatch/sockwatch/internal/tracing"
	"github.com/sockwatch/sockwatch/pidfd"
	"github.com/sockwatch/sockwatch/reap"
	"github.com/sockwatch/sockwatch/watch"
)

func newTraceCmd(a *app) *cobra.Command {
	var (
		hooks    ebpf.Hooks
		filter   traceFilter
		duration time.Duration
		asJSON   bool
	)
	cmd := &cobra.Command{
		Use:        "trace [flags]",
		Short:      "Tell of every bind on this machine, and what is left behind",
		SuggestFor: []string{"snoop", "strace", "monitor"},
		GroupID:    groupFiles,
		Long: `Tell of every sock-file that is made on this machine, by whom, and what becomes
of it, until Ctrl-C. It removes nothing. The kernel tells of the binds (eBPF),
so nobody need cooperate; it needs root.

    bind     a process has bound a UNIX socket to a path
    exit     a process has ended that has bound one, and how
    outcome  what became of a sock-file then: gone (its process has removed it),
             alive (another process has the socket), replaced, ...
    left     a sock-file is dead and still there: it was left behind

Paths are absolute, as the process sees them that has bound, with symbolic links
resolved. Sockets in the abstract namespace and binds that failed are not told.
Of what was bound before, and of the ends of its processes, the rest is told.

At the end there is a sum of what was left behind, and by whom.

Where the kernel is asked is chosen by --hooks:

    fexit       the end of the kernel's own function: also for 32-bit programs
                and io_uring, and costs other system calls nothing
    tracepoint  the system call bind of 64-bit programs; slows every system call
                of the machine, by 15 to 25 ns
    sys_exit    every system call's end: also for 32-bit programs and io_uring;
                slows every system call of the machine, by 30 to 45 ns
    auto        fexit, or else tracepoint (the default)

Times are measured on one machine; see docs/benchmarks.md.
'sockwatch doctor' tells what this kernel allows. Of the flags --path, --comm,
--uid and --cgroup a bind must meet all that are given, and one of those that
are given more than once. Patterns are written as in the daemon's rules:

    *     anything but a slash
    **    anything, slashes included

With --json each is an object: type, time, process, pid, comm, uid, path;
raw_path and via of a bind; exit; outcome, reason, error, after_exit_us.`,
		Example: `  # What do the web servers bind, and what do they leave?
  sockwatch trace --comm nginx --comm 'php-fpm*'

  # A minute of a test run
  sockwatch trace --duration 1m --path '/tmp/**' --json >binds.jsonl`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if duration < 0 {
				return usagef("--duration %s: it cannot be negative", duration)
			}
			rule, err := filter.rule()
			if err != nil {
				return err
			}
			t := &tracer{app: a, asJSON: asJSON, rule: rule, filtered: len(filter.cgroup) > 0}
			return t.trace(cmd.Context(), hooks, duration)
		},
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	flags := cmd.Flags()
	flags.Var(&hooksFlag{&hooks}, "hooks", "where the kernel is asked: auto, fexit, tracepoint or sys_exit (`HOOKS`)")
	flags.StringArrayVar(&filter.path, "path", nil, "only sock-files whose path matches `GLOB` (repeatable)")
	flags.StringArrayVar(&filter.comm, "comm", nil, "only of processes whose name matches `GLOB` (repeatable)")
	flags.StringArrayVar(&filter.uid, "uid", nil, "only of this `USER`, a number or a name (repeatable)")
	flags.StringArrayVar(&filter.cgroup, "cgroup", nil, "only of processes in a cgroup that matches `GLOB`, such as /system.slice/** (repeatable)")
	flags.DurationVar(&duration, "duration", 0, "end after `DURATION`, from when the binds are seen")
	jsonFlag(cmd, &asJSON)
	_ = cmd.RegisterFlagCompletionFunc("hooks", cobra.FixedCompletions(hooksNames(), cobra.ShellCompDirectiveNoFileComp))
	for _, name := range []string{"path", "comm", "uid", "cgroup", "duration"} {
		_ = cmd.RegisterFlagCompletionFunc(name, cobra.NoFileCompletions)
	}
	return cmd
}

// hooksFlag is --hooks.
type hooksFlag struct{ hooks *ebpf.Hooks }

func (f *hooksFlag) String() string {
	if f.hooks == nil { // pflag asks the zero value
		return ""
	}
	return f.hooks.String()
}
func (f *hooksFlag) Set(s string) error { return f.hooks.UnmarshalText([]byte(s)) }
func (f *hooksFlag) Type() string       { return "HOOKS" }

func hooksNames() []string {
	var names []string
	for h := ebpf.HooksAuto; h <= ebpf.HooksSysExit; h++ {
		names = append(names, h.String())
	}
	return names
}

// traceFilter is what the flags of trace say.
type traceFilter struct{ path, comm, uid, cgroup []string }

// commBytes is TASK_COMM_LEN without the NUL byte: proc_pid_comm(5).
const commBytes = 15

// rule makes of the flags what the daemon's rules are made of.
func (f *traceFilter) rule() (config.Rule, error) {
	r := config.Rule{Path: f.path, Comm: f.comm, Cgroup: f.cgroup}
	for name, patterns := range map[string][]string{"path": f.path, "comm": f.comm, "cgroup": f.cgroup} {
		for _, pattern := range patterns {
			switch {
			case pattern == "" || !doublestar.ValidatePattern(pattern):
				return r, usagef("--%s %q is not a pattern", name, pattern)
			case name != "comm" && pattern[0] != '/':
				return r, usagef("--%s %q matches nothing: it must begin with a slash; /**/%[2]s is that at any depth", name, pattern)
			case name == "comm" && len(pattern) > commBytes && !strings.ContainsAny(pattern, `*?[]{}\`):
				return r, usagef("--%s %q matches nothing: the kernel cuts names to %d bytes", name, pattern, commBytes)
			}
		}
	}
	for _, text := range f.uid {
		uid, err := strconv.ParseUint(text, 10, 32)
		if err != nil {
			known, err := user.Lookup(text)
			if err != nil {
				return r, usagef("--uid %q: there is no such user", text)
			}
			if uid, err = strconv.ParseUint(known.Uid, 10, 32); err != nil {
				return r, fmt.Errorf("--uid %s: %w", text, err)
			}
		}
		r.UID = append(r.UID, uint32(uid))
	}
	return r, nil
}

// tracer tells of binds.
type tracer struct {
	app      *app
	asJSON   bool
	rule     config.Rule
	filtered bool         // by cgroup, too
	cgroups  proc.Cgroups // of the goroutine that is told of binds

	left []traced
	lost uint64 // how many binds were lost, as far as that was told. Of the goroutine that is told of binds
}

// trace tells until ctx ends, a signal comes, or the duration is over.
func (t *tracer) trace(ctx context.Context, hooks ebpf.Hooks, duration time.Duration) error {
	kernel, err := ebpf.Open(ebpf.Options{Hooks: hooks})
	if err != nil {
		return err
	}
	interrupt, stop := untilInterrupted(ctx)
	defer stop()
	end := interrupt
	if duration > 0 {
		var cancel context.CancelFunc
		end, cancel = context.WithTimeout(interrupt, duration)
		defer cancel()
	}
	// It only looks on.
	w, err := watch.New(watch.Options{Log: t.app.log, DryRun: true})
	if err != nil {
		return errors.Join(err, kernel.Close())
	}
	defer w.Close()
	for _, refusal := range kernel.Refusals() {
		t.app.complain("the kernel refuses %s: %s", refusal.Hooks, refusal.Err)
	}
	t.app.complain("tracing by %s; Ctrl-C ends it", kernel.Hooks())
	if !t.asJSON {
		t.header()
	}
	events := w.Subscribe(eventBuffer)
	told := make(chan struct{})
	go func() {
		defer close(told)
		for e := range events.C() {
			t.happened(e)
		}
	}()
	source := tracing.Start(w, kernel, tracing.Options{
		Log: t.app.log, Wanted: t.wanted, Bound: t.bound, Lost: t.lose,
	})
	<-end.Done()
	err = source.Finish(interrupt)
	unfinished := errors.Is(err, context.Canceled)
	if unfinished {
		err = nil
	}
	w.SettleEnded()
	events.Close()
	<-told
	if n := events.Dropped(); n > 0 {
		t.app.complain("%d events are left out: they came faster than they could be printed", n)
	}
	if !t.asJSON {
		t.sum()
	}
	t.sumLost(kernel.Drops(), unfinished)
	return errors.Join(err, source.Close())
}

// viaScan is how a bind was learnt that was lost, and is still there.
const viaScan = "scan"

// lose says that binds are lost, once: how many it were in the end is said then.
func (t *tracer) lose(n uint64) {
	if t.lost == 0 {
		t.app.complain("%s; what is still there of that is looked for, and told with (%s)", lostBinds(n), viaScan)
		t.lost = n
	}
}

// sumLost says how many binds were lost, unless that was said.
func (t *tracer) sumLost(n uint64, unfinished bool) {
	switch {
	case unfinished:
		t.app.complain("ended before all was looked for that is still there of the lost: %d in all", n)
	case n > t.lost:
		t.app.complain("%s in all; what was still there of that was looked for", lostBinds(n))
	}
}

func lostBinds(n uint64) string {
	what := "binds came faster than they could be read, and are lost"
	if n == 1 {
		what = "bind came faster than it could be read, and is lost"
	}
	return fmt.Sprintf("%d %s", n, what)
}

// wanted tells whether a bind is told of.
func (t *tracer) wanted(e ebpf.Event) bool {
	c := config.Candidate{Path: pathOf(e), UID: e.EUID, Comm: e.Comm}
	if t.filtered {
		if e.CgroupID != 0 {
			c.Cgroup = t.cgroups.Path(e.CgroupID)
		} else { // it was found by a look at the processes
			c.Cgroup, _ = proc.FS("").Cgroup(e.Owner.PID)
		}
	}
	return t.rule.Match(c)
}

// pathOf is the path of a bind, absolute also where it does not lead through the root directory of who has bound.
func pathOf(e ebpf.Event) string {
	if e.Outside && e.FullPath != "" {
		return e.FullPath
	}
	return e.Path
}

// bound tells of a bind.
func (t *tracer) bound(e ebpf.Event) {
	at, via := e.Time, e.Via.String()
	if e.Via == 0 { // events were lost, and this is still there
		at, via = time.Now(), viaScan
	}
	raw := newJSONPath(e.RawPath)
	path := newJSONPath(pathOf(e))
	t.tell(traced{
		Type: "bind", Time: jsonTime(at), Process: e.Owner.String(), PID: e.Owner.PID, Comm: e.Comm, UID: e.EUID,
		jsonPath: &path, RawPath: raw.Path, RawPathB64: raw.PathB64, Via: via,
	})
}

// happened tells of what the watcher has found out.
func (t *tracer) happened(e watch.Event) {
	if e.Kind == watch.KindClaimed { // which was told as a bind, or was before
		return
	}
	j := traced{
		Type: e.Kind.String(), Time: jsonTime(e.Time), Process: e.Owner.String(), PID: e.Owner.PID, Comm: e.Comm, UID: e.UID,
	}
	ended := e.Kind == watch.KindExited || e.Exit != (pidfd.Exit{})
	if ended {
		j.Exit = e.Exit.String()
	}
	for i := range t.left {
		if ended && t.left[i].Process == j.Process { // of its end more is known when its parent has reaped it
			t.left[i].Exit = j.Exit
		}
	}
	if e.Kind == watch.KindOutcome {
		path := newJSONPath(withoutRoot(e.Result.Path))
		j.jsonPath = &path
		if ended {
			us := e.AfterExit.Microseconds()
			j.AfterExitUS = &us
		}
		j.Outcome, j.Reason = e.Result.Outcome.String(), string(e.Result.Reason)
		if e.Result.Err != nil {
			j.Error = oneLine(e.Result.Err)
		}
		if wouldRemove(e) {
			j.Type, j.Outcome = "left", ""
			t.left = append(t.left, j)
		}
	}
	t.tell(j)
}

// wouldRemove tells whether the watcher, which removes nothing, would have: the file is dead, and there.
func wouldRemove(e watch.Event) bool {
	return e.Result.DryRun && e.Result.Outcome == reap.OutcomeRemoved
}

// withoutRoot is a path as its process sees it: that of one with another root directory leads through /proc.
func withoutRoot(path string) string {
	rest, ok := strings.CutPrefix(path, "/proc/")
	if !ok {
		return path
	}
	pid, rest, ok := strings.Cut(rest, "/")
	if _, err := strconv.Atoi(pid); err != nil || !ok {
		return path
	}
	if inner, ok := strings.CutPrefix(rest, "root/"); ok {
		return "/" + strings.TrimLeft(inner, "/")
	}
	return path
}

// traced is an object of the JSON interface.
type traced struct {
	Type    string   `json:"type"`
	Time    jsonTime `json:"time"`
	Process string   `json:"process"` // PID:INODE
	PID     int      `json:"pid"`
	Comm    string   `json:"comm"`
	UID     uint32   `json:"uid"`
	*jsonPath
	RawPath     string `json:"raw_path,omitempty"` // what bind(2) was given
	RawPathB64  []byte `json:"raw_path_b64,omitempty"`
	Via         string `json:"via,omitempty"`
	Exit        string `json:"exit,omitempty"`
	Outcome     string `json:"outcome,omitempty"`
	Reason      string `json:"reason,omitempty"`
	Error       string `json:"error,omitempty"`
	AfterExitUS *int64 `json:"after_exit_us,omitempty"`
}

func (t *tracer) tell(j traced) {
	if t.asJSON {
		t.app.stdout.object(j)
		return
	}
	t.line(j)
}

// traceColumns are for names of the usual lengths: this is printed as it happens, and no line knows the next.
const traceColumns = "%-12s  %7s  %-15s  %6s  %-7s  "

func (t *tracer) header() {
	t.app.stdout.printf(traceColumns+"%s\n", "TIME", "PID", "COMM", "UID", "WHAT", "PATH")
}

func (t *tracer) line(j traced) {
	comm := fmt.Sprintf("%-15s", escapeName(j.Comm))
	t.app.stdout.printf("%s  %7d  %s  %6d  %-7s  %s%s\n", time.Time(j.Time).Local().Format("15:04:05.000"), j.PID, errors.New(comm), j.UID,
		errors.New(j.Type), j.pathOrEmpty(), errors.New(j.more()))
}

func (j traced) pathOrEmpty() string {
	if j.jsonPath == nil {
		return ""
	}
	return j.exact()
}

// more is what a line says behind the path.
func (j traced) more() string {
	switch j.Type {
	case "exit":
		return j.Exit
	case "left":
		if j.Exit == "" {
			return "  (its process lives)"
		}
		return "  (" + j.Exit + ")"
	case "outcome":
		about := []string{j.Outcome}
		for _, s := range []string{j.Reason, j.Error} {
			if s != "" {
				about = append(about, s)
			}
		}
		return "  (" + strings.Join(about, "; ") + ")"
	}
	if j.Via != "" && j.Via != ebpf.ViaNative.String() {
		return "  (" + j.Via + ")"
	}
	return ""
}

// sum says what was left behind, and by whom.
func (t *tracer) sum() {
	out := t.app.stdout
	if len(t.left) == 0 {
		out.printf("\nNothing was left behind.\n")
		return
	}
	out.printf("\n%s left behind:\n", errors.New(countOf(len(t.left), "sock-file")))
	table := out.table("PROCESS", "COMM", "USER", "EXIT", "PATH")
	for _, j := range t.left {
		table.row(j.Process, j.Comm, userOr(j.UID), j.Exit, j.exact())
	}
	table.flush()
}
