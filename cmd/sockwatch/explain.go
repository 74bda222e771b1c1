package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"

	"github.com/spf13/cobra"

	"github.com/sockwatch/sockwatch/client"
	"github.com/sockwatch/sockwatch/pidfd"
	"github.com/sockwatch/sockwatch/reap"
)

func newExplainCmd(a *app) *cobra.Command {
	var (
		daemon daemonFlags
		asJSON bool
	)
	cmd := &cobra.Command{
		Use:        "explain [flags] PATH",
		Short:      "Tell why a sock-file is there, who has it, and if it may go",
		SuggestFor: []string{"why", "who", "show", "stat", "probe"},
		GroupID:    groupFiles,
		Long: `Look at one sock-file and tell whether it is alive, which processes hold it, and
whether 'sockwatch reap' would remove it or keep it: step by step, why, and what
can be done about it. Nothing is changed, and no server notices.

The steps are those of a removal, and the first that fails ends it:

    pin      the file itself is held, whatever takes its name meanwhile
    type     it is a sock-file
    probe    the kernel is asked whether a socket is bound to it
    view     a "no" can be believed in this directory
    links    it has no other name, through which a bind could be under way
    barrier  no bind is under way in the directory, and it is dead still
    removal  this user may remove it

Where a sockwatch daemon runs it tells for which processes it has claimed the
file (owner), and what it has done with files of that name (history): when,
whose they were and how those ended. That is told of a file that is gone, too.

With --json it is an object with path, state, type, holders, dev, inode, age_s
and owners as of 'sockwatch ls', and verdict (remove or keep), outcome, reason,
error, steps (step, ok, detail), advice and history (objects as of 'sockwatch
events'). Of a file that is gone there are path, owners and history, or nothing.

The exit status is 1 if there is no such file, or if it is not a sock-file.`,
		Example: `  # "Address already in use": by whom?
  sockwatch explain /run/myapp/control.sock

  # Who has removed it?
  sockwatch explain /run/myapp/gone.sock

  # May a script delete it?
  sockwatch explain --json /tmp/x.sock | jq -r .verdict`,
		Args: oneArg("PATH"),
		RunE: func(cmd *cobra.Command, args []string) error {
			e, err := explain(cmd.Context(), args[0])
			if err != nil && !errors.Is(err, errNoFile) {
				return err
			}
			k := daemon.knowledge(cmd.Context(), a, args[0])
			if err != nil {
				switch {
				case len(k.Owners)+len(k.History) == 0:
				case asJSON:
					a.stdout.object(k)
				default:
					a.stdout.printf("%s\n\n", args[0])
					k.print(a.stdout)
				}
				return err
			}
			defer e.file.Close()
			e.Owners, e.History = k.Owners, k.History
			if e.holdersErr != nil {
				a.complain("%s", e.holdersErr)
			}
			if asJSON {
				a.stdout.object(e)
			} else {
				e.print(a.stdout)
			}
			return nil
		},
	}
	daemon.register(cmd)
	jsonFlag(cmd, &asJSON)
	return cmd
}

// explanation is all there is to say about a sock-file, and an object of the JSON interface.
type explanation struct {
	*sockFile
	holdersErr error // why they could not be looked for

	Verdict string            `json:"verdict"` // "remove" or "keep"
	Outcome reap.Outcome      `json:"outcome"` // of a removal
	Reason  reap.Reason       `json:"reason,omitempty"`
	Error   string            `json:"error,omitempty"` // what the kernel says to a removal
	Steps   []explanationStep `json:"steps"`
	Advice  string            `json:"advice"`
	History []client.Event    `json:"history,omitempty"`
}

// explanationStep is a step of a removal. One that is not OK is the last.
type explanationStep struct {
	Step   string `json:"step"`
	OK     bool   `json:"ok"`
	Detail string `json:"detail"`
}

func explain(ctx context.Context, path string) (*explanation, error) {
	f, err := reap.Open(path)
	if err != nil {
		return nil, explainOpen(path, err)
	}
	s, err := look(f)
	if err != nil {
		_ = f.Close()
		return nil, err
	}
	e := &explanation{sockFile: s, Verdict: "keep"}
	if s.State != reap.StateDead {
		e.holdersErr = findHolders(ctx, []*sockFile{s})
	}
	r := f.Remove(reap.RemoveOptions{DryRun: true})
	e.Outcome, e.Reason = r.Outcome, r.Reason
	if r.Outcome == reap.OutcomeRemoved {
		e.Verdict = "remove"
	}
	if r.Err != nil {
		e.Error = oneLine(r.Err)
	}
	if r.Outcome == reap.OutcomeAlive {
		e.State, e.Reason = reap.StateAlive, reap.ReasonHolderNotVisible
		if len(s.Holders) > 0 {
			e.Reason = reap.ReasonHolder
		}
	}
	e.takeSteps()
	e.Advice = e.advise()
	return e, nil
}

// explainOpen says what is at path instead of a sock-file.
func explainOpen(path string, err error) error {
	switch {
	case errors.Is(err, reap.ErrNotSocket):
		info, statErr := os.Lstat(path)
		if statErr != nil {
			return err
		}
		kind := "a file of another type"
		switch info.Mode().Type() {
		case 0:
			kind = "a regular file"
		case fs.ModeDir:
			kind = "a directory; for those there is 'sockwatch ls'"
		case fs.ModeNamedPipe:
			kind = "a FIFO"
		case fs.ModeSymlink:
			target, _ := os.Readlink(path)
			kind = fmt.Sprintf("a symbolic link to %q; explain that one", target)
		}
		return fmt.Errorf("%s: %w, but %s", path, reap.ErrNotSocket, kind)
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("%s: %w", path, errNoFile)
	}
	return err
}

var errNoFile = errors.New("there is no such file, so nothing is in the way of a new server")

// takeSteps puts down how a removal comes to its outcome. Its order is that of reap.
func (e *explanation) takeSteps() {
	if e.step("pin", true, "inode %d on device %d", e.Inode, e.Dev); !e.file.ID().Stable() {
		e.Steps[0].Detail += "; the filesystem has no file handles, so a descriptor is held"
	}
	if e.step("type", true, "it is a sock-file"); reap.IsPrivate(filepath.Base(e.file.Path())) {
		e.Steps[1].Detail += ", under the private name of a removal that was interrupted"
	}
	switch {
	case e.State == reap.StateAlive:
		e.step("probe", false, "a socket is bound to it")
		return
	case e.Reason == reap.ReasonNetworkFS, e.Reason == reap.ReasonOverlayLayer:
		e.step("probe", true, "no socket is bound to it, as seen from here")
		e.step("view", false, "%s", views[e.Reason])
		return
	case e.Reason == reap.ReasonHardLinked:
		e.step("probe", true, "no socket is bound to it")
		e.step("view", true, "what is bound here is seen from here")
		e.step("links", false, "it has %d names, and through another one a bind may be under way", e.stat.Nlink)
		return
	case e.State == reap.StateUnknown && e.Reason != reap.ReasonReadOnly:
		e.step("probe", false, "the kernel did not tell: %s", e.Error)
		return
	}
	e.step("probe", true, "no socket is bound to it")
	e.step("view", true, "what is bound here is seen from here")
	e.step("links", true, "it has no other name")
	if e.State == reap.StateUnknown {
		e.step("barrier", false, "%s", e.Error)
		return
	}
	e.step("barrier", true, "no bind is under way, and still no socket is bound to it: it is dead for good")
	switch {
	case e.Outcome == reap.OutcomeRemoved:
		e.step("removal", true, "nothing is in the way")
	case e.Error != "":
		e.step("removal", false, "%s", e.Error)
	default:
		e.step("removal", false, "it is %s meanwhile", e.Outcome)
	}
}

func (e *explanation) step(name string, ok bool, format string, args ...any) {
	e.Steps = append(e.Steps, explanationStep{name, ok, fmt.Sprintf(format, args...)})
}

var views = map[reap.Reason]string{
	reap.ReasonNetworkFS:    "the filesystem is a network filesystem or FUSE: a socket of another kernel would not be seen",
	reap.ReasonOverlayLayer: "the directory is, or may be, a layer of an overlay (a container's): a socket that is bound there would not be seen",
}

// advise says what to do, in a sentence for somebody who wants the file gone.
func (e *explanation) advise() string {
	switch {
	case e.Outcome == reap.OutcomeRemoved:
		return "It is safe to remove: " + e.reapCommand()
	case e.State == reap.StateAlive && len(e.Holders) > 0:
		return fmt.Sprintf("It is in use. It can go when its holders have ended: 'sockwatch kill --bind PATH %d' ends one and removes the file.",
			e.Holders[0].PID)
	case e.State == reap.StateAlive:
		return "It is in use by a process that you may not look at, or one outside of this container; or the socket is on its way in a message. Ask as root."
	}
	if advice, ok := advices[e.Reason]; ok && (e.Reason != reap.ReasonPermission || e.State != reap.StateDead) {
		return advice
	}
	if e.Reason == reap.ReasonPermission {
		return fmt.Sprintf("It is dead. Who may remove files from the directory can remove it, or root: %s", e.reapCommand())
	}
	return "It is kept, to be on the safe side. Look again."
}

var advices = map[reap.Reason]string{
	reap.ReasonPermission:   "Only who may write to the file can ask the kernel about it: ask as its owner, or as root.",
	reap.ReasonMountPoint:   "Something is mounted on it: unmount that first.",
	reap.ReasonNetworkFS:    "Ask on the machine where its server ran. If no other machine uses it, it can be removed with rm.",
	reap.ReasonOverlayLayer: "Look from inside the container. If none is running, 'sockwatch reap --force' on the directory removes what is dead.",
	reap.ReasonReadOnly:     "The filesystem is read-only: nothing can be removed from it, and nobody can bind on it.",
	reap.ReasonNoSpace:      "The disk is full: make room, for a moment a removal needs some.",
	reap.ReasonNoProcfs:     "Mount procfs at /proc: without it the kernel cannot be asked.",
	reap.ReasonHardLinked:   "Remove its other names (find -samefile) that nobody uses, and look again.",
}

// reapCommand is the command line that removes the file.
func (e *explanation) reapCommand() string {
	path := e.file.Path()
	// One that a shell and a glob take as it is.
	if plain := regexp.MustCompile(`^[A-Za-z0-9_@%+=:.,/][A-Za-z0-9_@%+=:.,/-]*$`); !plain.MatchString(path) {
		return "'sockwatch reap' on its directory, with --match for this file alone"
	}
	return fmt.Sprintf("sockwatch reap --match %s %s", filepath.Base(path), filepath.Dir(path))
}

// line prints what there is to say about one thing.
func (o *output) line(name, format string, args ...any) {
	o.printf("%-9s"+format+"\n", append([]any{errors.New(name)}, args...)...)
}

func (e *explanation) print(o *output) {
	o.printf("%s\n\n", e.file.Path())
	line := o.line
	line("state", "%s: %s", word(e.State.String()), errors.New(states[e.State]))
	kind := "sock-file"
	if e.Type != "" {
		kind += " of a " + e.Type + " socket"
	}
	line("file", "%s, made or last changed %s ago, of user %s (%s)", errors.New(kind), e.age(), userOr(e.stat.Uid), e.mode)
	for _, h := range e.Holders {
		line("holder", "process %d, %s, of user %s", h.PID, h.Comm, userOr(h.UID))
	}
	switch {
	case len(e.Holders) > 0:
	case e.State == reap.StateDead:
		line("holder", "none")
		for _, hint := range formerHolders(filepath.Base(e.file.Path())) {
			line("", "%s", errors.New(hint))
		}
	default:
		line("holder", "not visible")
	}
	known := knowledge{Owners: e.Owners, History: e.History}
	known.print(o)
	if e.Verdict == "remove" {
		line("verdict", "%s: reap would remove it", word(e.Verdict))
	} else {
		why := e.Outcome.String()
		if e.Reason != reap.ReasonNone {
			why += ", " + string(e.Reason)
		}
		line("verdict", "%s: reap would keep it (%s)", word(e.Verdict), errors.New(why))
	}

	o.printf("\nStep by step:\n")
	for _, s := range e.Steps {
		mark := "ok"
		if !s.OK {
			mark = "stop"
		}
		o.printf("  %-9s%-6s%s\n", errors.New(s.Step), errors.New(mark), errors.New(s.Detail))
	}
	o.printf("\n%s\n", errors.New(e.Advice))
}

var states = map[reap.State]string{
	reap.StateAlive:   "a socket is bound to it",
	reap.StateDead:    "no socket is bound to it, and none ever will be again",
	reap.StateUnknown: "it could not be found out whether a socket is bound to it",
}

// formerHolders guesses, by the conventions of known programs, whose a file was. Nothing else tells: the kernel keeps no
// record of a socket that is gone.
func formerHolders(base string) []string {
	var hints []string
	for _, name := range reap.PresetNames() {
		preset, err := reap.LookupPreset(name)
		if err != nil {
			continue
		}
		for _, c := range preset.Conventions {
			owner, pid, ok := c.Parse(base)
			if !ok || pid == 0 {
				continue
			}
			hint := fmt.Sprintf("by its name perhaps of %q, process %d, as %s names them; that process", owner, pid, name)
			p, err := pidfd.Open(pid)
			if err != nil {
				hints = append(hints, hint+" has ended")
				continue
			}
			_ = p.Close()
			hints = append(hints, hint+"'s number is in use, by the same or another one")
		}
	}
	return hints
}
