package main

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/sockwatch/sockwatch/reap"
)

func newReapCmd(a *app) *cobra.Command {
	var (
		o      reap.SweepOptions
		preset string
		asJSON bool
	)
	cmd := &cobra.Command{
		Use:        "reap [flags] DIR...",
		Short:      "Remove the dead sock-files in directories",
		SuggestFor: []string{"sweep", "clean", "rm"},
		GroupID:    groupFiles,
		Long: `Look at every sock-file in the directories and remove those that are dead: no
socket of this kernel is bound to them any more, so nobody can be reached by
them, and nobody ever will be.

What is alive is kept, whoever holds it, in whatever container or namespace. A
server does not notice that it was asked. In doubt a file is kept, and the line
about it says why. Files of other types are passed over in silence. Nothing is
removed from network filesystems and FUSE, nor from directories that are or may
be layers of an overlay, which --force overrides.

For each sock-file it prints a line on standard output, with what became of it:

    removed   it was dead and is gone
    gone      somebody else removed it meanwhile
    alive     kept: a socket is bound to it
    replaced  kept: another file has its name by now
    unknown   kept: it could not be found out
    refused   kept: it may not, or cannot safely, be removed
    failed    the kernel failed on the way

With --json it is an object with path, outcome, reason, error and dry_run. What
cannot be read is told on standard error, and so is the sum in the end.

The exit status is 1 if a file was unknown, refused or failed, or a directory
cannot be read. A directory of a --preset that is not there holds nothing to
remove and is no failure. An interrupt (Ctrl-C) ends the sweep between two
files.`,
		Example: `  # What would be removed? Nothing is touched
  sockwatch reap --dry-run /run/myapp

  # Remove it, and what is dead in the directories below, too
  sockwatch reap -r /run/myapp

  # Only what editors left in /tmp, and only if it is older than a day
  sockwatch reap --match 'vscode-ipc-*.sock' --min-age 24h /tmp

  # Where a known program makes its sock-files
  sockwatch reap --preset tractor`,
		Args: cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 && preset == "" {
				return usagef("no directory given: name one, or a --preset")
			}
			for _, dir := range args {
				if dir == "" {
					return usagef("an empty argument is no directory")
				}
			}
			if err := o.Validate(); err != nil {
				return usagef("%w", err)
			}
			p, err := lookupPreset(preset)
			if err != nil {
				return err
			}
			s := sweeper{app: a, asJSON: asJSON, progress: a.stderr.terminal && !a.stdout.terminal}
			return s.sweep(cmd.Context(), o, append(args, s.present(p.Bindspaces)...))
		},
	}
	flags := cmd.Flags()
	flags.BoolVarP(&o.DryRun, "dry-run", "n", false, "tell what would become of each file, and touch none")
	flags.BoolVarP(&o.Recursive, "recursive", "r", false, "look into the directories below, too; symlinks are not followed")
	flags.StringVar(&o.Match, "match", "", "only files whose path below DIR matches `GLOB`, such as '*.sock' or '**/agent.*'")
	flags.DurationVar(&o.MinAge, "min-age", 0, "only files that were made, or last changed, at least `DURATION` ago")
	flags.BoolVar(&o.Force, "force", false, "believe that a file is dead in what may be a layer of an overlay, too")
	presetFlag(cmd, &preset)
	jsonFlag(cmd, &asJSON)
	cmd.ValidArgsFunction = completeDirs
	_ = cmd.RegisterFlagCompletionFunc("match", cobra.NoFileCompletions)
	_ = cmd.RegisterFlagCompletionFunc("min-age", cobra.NoFileCompletions)
	return cmd
}

// completeDirs completes arguments that are directories.
func completeDirs(*cobra.Command, []string, string) ([]cobra.Completion, cobra.ShellCompDirective) {
	return nil, cobra.ShellCompDirectiveFilterDirs
}

// sweeper prints the Results of a sweep.
type sweeper struct {
	app      *app
	asJSON   bool
	progress bool // is shown

	counts map[reap.Outcome]int
	files  int
	failed bool
	due    time.Time // of the next look at the progress
	shown  bool      // the terminal has a line of it
}

// present leaves out the directories that are not there, and says so.
func (s *sweeper) present(dirs []string) []string {
	var there []string
	for _, dir := range dirs {
		if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
			s.app.complain("%s is not there: nothing to remove", dir)
			continue
		}
		there = append(there, dir)
	}
	return there
}

func (s *sweeper) sweep(ctx context.Context, o reap.SweepOptions, dirs []string) error {
	ctx, stop := untilInterrupted(ctx)
	defer stop()
	s.counts, s.due = map[reap.Outcome]int{}, time.Now().Add(progressEvery)
	for r := range reap.Sweep(ctx, o, dirs...) {
		s.tell(r)
		if s.app.stdout.failed() != nil {
			break // nobody would learn of the rest
		}
	}
	s.clear()
	status, torn := interrupted(ctx)
	s.sum(o.DryRun, torn, dirs)
	switch {
	case torn:
		return exitWith(status, nil)
	case s.failed:
		return exitWith(statusFailed, nil)
	}
	return nil
}

// tell prints one Result.
func (s *sweeper) tell(r reap.Result) {
	if !r.Outcome.OK() {
		s.failed = true
	}
	// Only what is told of a directory, or of all, is not about a sock-file.
	var directory *fs.PathError
	if errors.As(r.Err, &directory) || r.Path == "" {
		s.clear()
		s.app.complain("%s", errors.New(oneLine(r.Err)))
		return
	}
	s.files++
	s.counts[r.Outcome]++
	if s.asJSON {
		s.app.stdout.object(newJSONResult(r))
	} else {
		s.app.stdout.printResult(r)
	}
	if s.progress && time.Now().After(s.due) {
		s.due, s.shown = time.Now().Add(progressEvery), true
		s.app.stderr.printf("\r%d sock-files looked at, %d removed\x1b[K", s.files, s.counts[reap.OutcomeRemoved])
	}
}

// progressEvery is the time between two looks at the progress. A sweep that is shorter shows none.
const progressEvery = 200 * time.Millisecond

// clear wipes the progress away.
func (s *sweeper) clear() {
	if s.shown {
		s.app.stderr.printf("\r\x1b[K")
		s.shown = false
	}
}

// sum says in one line what became of all.
func (s *sweeper) sum(dryRun, torn bool, dirs []string) {
	format, kept := "removed %d", ", kept "
	if dryRun {
		format = "would remove %d"
	}
	if torn {
		format = "interrupted: " + format
	}
	args := []any{s.counts[reap.OutcomeRemoved]}
	for _, outcome := range []reap.Outcome{
		reap.OutcomeAlive, reap.OutcomeReplaced, reap.OutcomeUnknown, reap.OutcomeRefused, reap.OutcomeFailed,
	} {
		if n := s.counts[outcome]; n > 0 {
			format += kept + "%d %s"
			args = append(args, n, outcome)
			kept = ", "
		}
	}
	if n := s.counts[reap.OutcomeGone]; n > 0 {
		format += ", %d gone"
		args = append(args, n)
	}
	switch {
	case len(dirs) > 3:
		format += " in " + strconv.Itoa(len(dirs)) + " directories"
	case len(dirs) > 0:
		format += " in " + strings.TrimSuffix(strings.Repeat("%s, ", len(dirs)), ", ")
		for _, dir := range dirs {
			args = append(args, dir)
		}
	}
	s.app.complain(format, args...)
}
