package main

import (
	"strings"

	"github.com/spf13/cobra"
)

// How to add a subcommand: one file, named for it, with a function newNameCmd(a *app) *cobra.Command, and its line in
// newRootCmd. See version.go for a small one. In that function:
//
//   - Use: "name [flags] ARG...", a Short (one line, no full stop), a Long for somebody who has never seen the program, an
//     Example, each line of it indented by two spaces, and a GroupID. Long is printed as it is: lines of at most 80
//     characters. It is also Markdown, for the manual page: what is to keep its lines is indented by four spaces, with an
//     empty line before and after.
//   - Args is set always: noArgs, oneArg("PATH"), needArgs("PID"), cobra.ArbitraryArgs. What takes a CMD calls
//     cmd.Flags().SetInterspersed(false), so that CMD's flags are CMD's, and passesStatusOn(cmd).
//   - Flags: jsonFlag for what reads; claimFlags for what takes claims; presetFlag alone for what takes only a preset. The
//     value's name stands in backquotes in the flag's usage: "wait `DURATION` before ...".
//   - RunE, never Run, and no PersistentPreRun. It prints data by a.stdout and diagnostics by a.complain, gives a.log to
//     the libraries, and never calls os.Exit.
//   - Errors: usagef for a wrong command line, exitWith for a status of its own, any other for 1. They name the file or
//     pid, what was tried and what the kernel said. Where one of many fails, a.complain at once, go on, and
//     exitWith(statusFailed, nil) at the end.
//   - No signal is caught here: what must not be torn in two (reap, kill) takes untilInterrupted(cmd.Context()),
//     run has rules of its own.
//
// Its specification is testdata/script/NAME.txt. TestCommands holds it to this list.

// The groups in which help lists the subcommands.
const (
	groupProcesses = "processes"
	groupFiles     = "files"
	groupDaemon    = "daemon"
	groupProgram   = "program"
)

func newRootCmd(a *app) *cobra.Command {
	root := &cobra.Command{
		Use:   "sockwatch",
		Short: "Remove a dead process's sock-files the moment it dies, and never a live one",
		Long: `sockwatch removes a dead process's sock-files the moment it dies, and never a
live one.

A process that binds a UNIX socket to a path makes a file there, the sock-file.
Only its own code ever removes it. After SIGKILL, a crash or the OOM killer the
file stays: the next start fails with "address already in use", and clients dial
a peer that is dead.

Whether a sock-file is dead sockwatch asks the kernel. It does not go by a pid
in the name, by the file's age or by lists of sockets, and a server does not
notice that it was asked. When in doubt it keeps the file and says why. It needs
no root.

Exit status:

    0    done; a sock-file that is kept because it is alive is no failure
    1    something failed, was refused or could not be found out
    2    wrong usage
    3    check: sock-files were left behind

run and check give the exit status of the command that they run; their own are
125 (sockwatch itself failed), 126 (the command cannot be executed) and 127 (it
is not found).

Environment:

    XDG_RUNTIME_DIR  where a user's sock-files are, commonly
    NO_COLOR         when set, no colour on a terminal either`,
		Example: `  # Run a server. However it ends, its sock-files go with it
  sockwatch run --bindspace /run/myapp -- myserver --verbose

  # Which sock-files are there, are they alive, and who holds them?
  sockwatch ls /run

  # What would a clean-up remove? Then do it
  sockwatch reap --dry-run -r /run/myapp
  sockwatch reap -r /run/myapp`,
		Version:       version(),
		SilenceErrors: true, // main says them, once
		SilenceUsage:  true,
		Args:          cobra.ArbitraryArgs,
		// Left to cobra, it would print help and end with 0.
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return unknownCommand(cmd, args[0])
			}
			cmd.SetOut(a.stderr)
			_ = cmd.Usage() // the output keeps the error
			return exitWith(statusUsage, nil)
		},
		PersistentPreRun: func(*cobra.Command, []string) { a.started = true },
	}
	root.SetOut(a.stdout)
	root.SetErr(a.stderr)
	root.AddGroup(
		&cobra.Group{ID: groupProcesses, Title: "Processes and what they leave behind:"},
		&cobra.Group{ID: groupFiles, Title: "Sock-files:"},
		&cobra.Group{ID: groupDaemon, Title: "The daemon, which watches for everybody:"},
		&cobra.Group{ID: groupProgram, Title: "This machine and this program:"},
	)
	root.SetHelpCommandGroupID(groupProgram)
	root.SetCompletionCommandGroupID(groupProgram)
	root.AddCommand(
		newCheckCmd(a),
		newDaemonCmd(a), newConfigCmd(a),
		newDoctorCmd(a),
		newEventsCmd(a),
		newExplainCmd(a),
		newKillCmd(a),
		newLsCmd(a),
		newManCmd(),
		newNotifyCmd(a),
		newReapCmd(a),
		newRunCmd(a),
		newStatusCmd(a),
		newTraceCmd(a),
		newUnwatchCmd(a),
		newVersionCmd(a),
		newWatchCmd(a),
	)
	root.PersistentFlags().Var(logLevel{&a.log}, "log-level", "log what is of `LEVEL` and above: debug, info, warn, error")
	_ = root.RegisterFlagCompletionFunc("log-level", cobra.FixedCompletions(logLevels, cobra.ShellCompDirectiveNoFileComp))
	return root
}

// unknownCommand says that there is no such subcommand, and which ones are written alike or meant by it (SuggestFor).
func unknownCommand(root *cobra.Command, name string) error {
	root.SuggestionsMinimumDistance = 2
	if alike := root.SuggestionsFor(name); len(alike) > 0 {
		return usagef("unknown command %q; did you mean %s?", name, strings.Join(alike, " or "))
	}
	return usagef("unknown command %q", name)
}

// noArgs is the Args of a command that takes none.
func noArgs(_ *cobra.Command, args []string) error {
	if len(args) > 0 {
		return usagef("it takes no arguments, and got %q", args[0])
	}
	return nil
}

// oneArg is the Args of a command that takes one of what.
func oneArg(what string) cobra.PositionalArgs {
	return func(_ *cobra.Command, args []string) error {
		if len(args) != 1 {
			return usagef("it takes one %s, and got %d", what, len(args))
		}
		return nil
	}
}

// needArgs is the Args of a command that takes one or more of what.
func needArgs(what string) cobra.PositionalArgs {
	return func(_ *cobra.Command, args []string) error {
		if len(args) == 0 {
			return usagef("no %s given", what)
		}
		return nil
	}
}
