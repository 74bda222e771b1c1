package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/sockwatch/sockwatch/reap"
	"github.com/sockwatch/sockwatch/watch"
)

func newCheckCmd(a *app) *cobra.Command {
	var (
		dirs   []string
		remove bool
		asJSON bool
	)
	cmd := &cobra.Command{
		Use:     "check [flags] [--] CMD [ARG]...",
		Short:   "Run a test suite; fail if it leaves dead sock-files behind",
		GroupID: groupProcesses,
		Long: `Run CMD, a test suite for example, and when it has ended, look for sock-files
that were not there before and are dead: no socket is bound to them any more,
and nobody will remove them.

It looks into the directories that --dir names and those directly in them.
Without --dir that is $XDG_RUNTIME_DIR, and /run for root. A new file that is
alive is no leak: a server may well outlive the test that started it. Nothing is
removed, unless --reap asks for it.

CMD has the terminal, standard input and output, and environment of check, and
gets the signals that check gets. After its end check prints a line for each
file that was left behind, on standard output as well: the path and, if CMD
itself bound it, the process. With --json it is an object:

    {"type":"leak","time","path","state":"dead","pid","comm",
     "outcome","reason","error"}

pid and comm are there when they are known; outcome, reason and error with
--reap: what became of the file.

The exit status is that of CMD, 128+n when signal n ended it. If that is 0 and
files were left behind, it is 3, also when --reap has removed them.`,
		Example: `  # Do the tests clean up?
  sockwatch check -- go test ./...

  # In the directories where they work; and clean up after them
  sockwatch check --dir /tmp --dir build/run --reap -- make test`,
		Args: needArgs("CMD"),
		RunE: func(cmd *cobra.Command, args []string) error {
			c := checker{app: a, remove: remove, asJSON: asJSON}
			var err error
			if c.dirs, err = checkDirs(dirs); err != nil {
				return err
			}
			return c.check(args)
		},
	}
	cmd.Flags().SetInterspersed(false)
	passesStatusOn(cmd)
	cmd.Flags().StringArrayVar(&dirs, "dir", nil, "look into the directory `DIR` (repeatable)")
	cmd.Flags().BoolVar(&remove, "reap", false, "remove what was left behind")
	jsonFlag(cmd, &asJSON)
	_ = cmd.MarkFlagDirname("dir")
	return cmd
}

// checkDirs gives the directories to look into, absolute.
func checkDirs(given []string) ([]string, error) {
	if len(given) == 0 {
		dir, err := defaultDir()
		if err != nil {
			return nil, err
		}
		given = []string{dir}
	}
	var dirs []string
	for _, dir := range given {
		if dir == "" {
			return nil, usagef("--dir is empty")
		}
		abs, err := absolute(dir)
		if err != nil {
			return nil, fmt.Errorf("--dir: %w", err)
		}
		dirs = append(dirs, abs)
	}
	return dirs, nil
}

// checker runs one CMD and tells what it leaves behind.
type checker struct {
	app    *app
	dirs   []string
	remove bool
	asJSON bool

	known  map[reap.ID]bool // sock-files that were there before, or are told already
	opened []*reap.File     // of those, the ones whose identity would else be given out again
	spaces []string         // the directories that were looked into
}

func (c *checker) check(args []string) error {
	path, err := findCommand(args[0])
	if err != nil {
		return err
	}
	defer c.close()
	if err := c.baseline(); err != nil {
		return err
	}

	// The watcher only tells who binds what. What it would remove, it keeps.
	w, err := watch.New(watch.Options{Log: c.app.log, DryRun: true})
	if err != nil {
		return err
	}
	defer w.Close()
	binds := w.Subscribe(eventBuffer)
	r := runner{app: c.app, watcher: w, patience: noPatience}
	exit, _, err := r.run(path, args, claims{Bindspaces: watchable(w, c.spaces)})
	if err != nil {
		return err
	}
	binds.Close()
	binders := map[string]watch.Event{}
	for e := range binds.C() {
		if e.Kind == watch.KindClaimed {
			binders[e.Result.Path] = e
		}
	}

	leaks := c.leaks()
	for _, f := range leaks {
		c.tell(f, binders[f.Path()])
		_ = f.Close()
	}
	switch n := len(leaks); {
	case n == 1:
		c.app.complain("one sock-file was left behind dead")
	case n > 1:
		c.app.complain("%d sock-files were left behind dead", n)
	}
	if err := exitAs(exit); err != nil {
		return err
	}
	if len(leaks) > 0 {
		return exitWith(statusLeaks, nil)
	}
	return nil
}

func (c *checker) close() {
	for _, f := range c.opened {
		_ = f.Close()
	}
}

// baseline notes the sock-files that are there before CMD runs.
func (c *checker) baseline() error {
	c.known = map[reap.ID]bool{}
	for _, dir := range c.dirs {
		err := c.walk(dir, func(space string) { c.spaces = append(c.spaces, space) }, func(f *reap.File) {
			c.isNew(f)
			c.release(f)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// isNew notes a file and tells whether it was not known.
func (c *checker) isNew(f *reap.File) bool {
	if c.known[f.ID()] {
		return false
	}
	c.known[f.ID()] = true
	return true
}

// release closes a file, unless its identity is its own only as long as it is open.
func (c *checker) release(f *reap.File) {
	if f.ID().Stable() {
		_ = f.Close()
	} else {
		c.opened = append(c.opened, f)
	}
}

// walk calls file with each sock-file in the directory and in those directly in it, and space with each of these
// directories. What is gone by then, or may not be read, is passed over.
func (c *checker) walk(dir string, space func(string), file func(*reap.File)) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	dir = strings.TrimSuffix(dir, "/")
	list := func(d string) {
		for f, err := range reap.List(d) {
			switch {
			case err == nil:
				file(f)
			case !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, fs.ErrPermission):
				c.app.complain("%s", err)
			}
		}
		space(d)
	}
	list(dir + "/")
	for _, e := range entries {
		if e.IsDir() {
			list(dir + "/" + e.Name())
		}
	}
	return nil
}

// watchable gives the directories that the watcher can watch: not those that may not be read, and no more than the limit
// on watches allows.
func watchable(w *watch.Watcher, dirs []string) []string {
	var can []string
	for _, dir := range dirs {
		if o, err := w.Prepare(watch.OwnerOptions{Bindspaces: []string{dir}}); err == nil {
			_ = o.Release()
			can = append(can, dir)
		}
	}
	return can
}

// leaks opens the new sock-files that are dead.
func (c *checker) leaks() []*reap.File {
	var dead, others []*reap.File
	judge := func(f *reap.File) {
		if state, _ := f.Probe(); state == reap.StateDead {
			dead = append(dead, f)
		} else {
			others = append(others, f)
		}
	}
	start := time.Now()
	for _, dir := range c.dirs {
		err := c.walk(dir, func(string) {}, func(f *reap.File) {
			if c.isNew(f) {
				judge(f)
			} else {
				_ = f.Close()
			}
		})
		if err != nil && !errors.Is(err, fs.ErrNotExist) { // CMD removed it, and all in it
			c.app.complain("%s", err)
		}
	}
	// A socket can outlive its process for a moment, and what keeps us from telling can be gone in one.
	for _, step := range reap.Ladder {
		if len(others) == 0 {
			break
		}
		<-time.After(time.Until(start.Add(step)))
		again := others
		others = nil
		for _, f := range again {
			judge(f)
		}
	}
	for _, f := range others {
		r := f.Remove(reap.RemoveOptions{DryRun: true})
		if r.Outcome == reap.OutcomeRemoved { // by now
			dead = append(dead, f)
			continue
		}
		c.tellUnknown(r)
		_ = f.Close()
	}
	return dead
}

// tellUnknown says why it is not known whether a sock-file is dead. r is of a removal as it would be.
func (c *checker) tellUnknown(r reap.Result) {
	switch {
	case r.Outcome == reap.OutcomeAlive || r.Outcome == reap.OutcomeGone || r.Outcome == reap.OutcomeReplaced:
	case r.Reason != reap.ReasonNone:
		c.app.complain("cannot tell whether %s is dead: %s", r.Path, string(r.Reason))
	default:
		c.app.complain("cannot tell whether %s is dead: %s", r.Path, r.Err)
	}
}

// tell prints what was left behind, and removes it if that is asked for. by is the Event of its claim, if there was one.
func (c *checker) tell(f *reap.File, by watch.Event) {
	j := jsonLeak{
		Type: "leak", Time: jsonTime(time.Now()), jsonPath: newJSONPath(f.Path()), State: reap.StateDead.String(),
		PID: by.Owner.PID, Comm: by.Comm,
	}
	format, args := "%s: %s", []any{f.Path(), word(j.State)}
	if j.PID != 0 {
		format += ", bound by process %d (%s)"
		args = append(args, j.PID, j.Comm)
	}
	if c.remove {
		r := f.Remove(reap.RemoveOptions{})
		j.Outcome, j.Reason = r.Outcome.String(), r.Reason
		if r.Err != nil {
			j.Error = oneLine(r.Err)
		}
		format += "; %s"
		args = append(args, whyKept(r))
	}
	if c.asJSON {
		c.app.stdout.object(j)
	} else {
		c.app.stdout.printf(format+"\n", args...)
	}
}

// jsonLeak is a sock-file that was left behind, in the JSON interface.
type jsonLeak struct {
	Type string   `json:"type"` // "leak": CMD may print other objects
	Time jsonTime `json:"time"`
	jsonPath
	State   string      `json:"state"`
	PID     int         `json:"pid,omitempty"` // of who bound it, when that is known
	Comm    string      `json:"comm,omitempty"`
	Outcome string      `json:"outcome,omitempty"` // with --reap
	Reason  reap.Reason `json:"reason,omitempty"`
	Error   string      `json:"error,omitempty"`
}
