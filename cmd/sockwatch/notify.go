package main

import (
	"os"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/sockwatch/sockwatch/notify"
)

func newNotifyCmd(*app) *cobra.Command {
	var pid int32
	cmd := &cobra.Command{
		Use:        "notify [flags] KEY=VALUE...",
		Short:      "Report to the watcher, from a script, what was bound",
		SuggestFor: []string{"report", "sd_notify"},
		GroupID:    groupProcesses,
		Long: `Tell the watcher of this process, which 'sockwatch run' is for all that it runs,
which sock-files were bound, so that they are removed when their owner ends. It
is for scripts; other programs can send the message by themselves.

    BIND=PATH    the process has bound the sock-file PATH
    UNBIND=PATH  it has removed it, or given it away
    NAME=NAME    what the process is to be called

All is sent in one message. A relative PATH is taken from the working directory.
Keys that are not known are sent as they are, and passed over by the watcher.

The report is about the process that called sockwatch, its parent, which is the
shell that runs the script. In a subshell, a pipeline or for a server that the
script has started, --pid says which process it is about; it must be one of the
same user.

The watcher is found by SOCKWATCH_NOTIFY. Where it is not set, nobody watches:
nothing is done, and the exit status is 0, so that a script runs with and
without. [ -n "$SOCKWATCH_NOTIFY" ] tells which.

The exit status is 1 if the message could not be sent, as when the watcher is
gone, or has not read for 100 ms. That it was sent does not say that the watcher
believes it.`,
		Example: `  # This shell holds the socket
  sockwatch notify BIND=/run/myapp/app.sock

  # A server that the script has started
  myserver /run/myapp/app.sock &
  until [ -S /run/myapp/app.sock ]; do sleep 0.1; done
  sockwatch notify --pid $! BIND=/run/myapp/app.sock`,
		Args: needArgs("KEY=VALUE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if !cmd.Flags().Changed("pid") {
				pid = int32(os.Getppid()) // we are gone in a moment
			} else if pid <= 0 {
				return usagef("--pid %d: not a process id", pid)
			}
			lines := []string{"PID=" + strconv.Itoa(int(pid))}
			for _, arg := range args {
				line, err := reportLine(arg)
				if err != nil {
					return err
				}
				lines = append(lines, line)
			}
			return notify.Send(strings.Join(lines, "\n") + "\n")
		},
	}
	cmd.Flags().Int32Var(&pid, "pid", 0, "the report is about process `PID`, not about the one that called sockwatch")
	cmd.ValidArgsFunction = completeReport
	_ = cmd.RegisterFlagCompletionFunc("pid", cobra.NoFileCompletions)
	return cmd
}

// reportLine checks an argument, so far as the watcher would refuse the message for it, and gives the line that is sent.
func reportLine(arg string) (string, error) {
	key, value, ok := strings.Cut(arg, "=")
	if !ok || key == "" || strings.Trim(key, "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_") != "" {
		return "", usagef("%q is not KEY=VALUE, with KEY in capitals", arg)
	}
	if strings.Contains(value, "\n") {
		return "", usagef("%q: the protocol cannot carry a newline", arg)
	}
	switch key {
	case "BIND", "UNBIND":
		if value == "" {
			return "", usagef("%s= names no sock-file", key)
		}
		path, err := absolute(value)
		if err != nil {
			return "", err
		}
		if strings.Contains(path, "\n") {
			return "", usagef("%q: the protocol cannot carry a newline, and the working directory has one in its path", arg)
		}
		return key + "=" + path, nil
	case "NAME":
		if value == "" || len(value) > 255 || strings.Contains(value, "/") {
			return "", usagef("%q: a name has 1 to 255 bytes, and no slash", arg)
		}
	case "PID":
		return "", usagef("%q: for the process that the report is about there is --pid", arg)
	}
	return arg, nil
}

// completeReport completes keys, and paths behind them.
func completeReport(_ *cobra.Command, _ []string, word string) ([]cobra.Completion, cobra.ShellCompDirective) {
	if strings.Contains(word, "=") {
		return nil, cobra.ShellCompDirectiveDefault
	}
	return []cobra.Completion{"BIND=", "UNBIND=", "NAME="}, cobra.ShellCompDirectiveNoFileComp | cobra.ShellCompDirectiveNoSpace
}
