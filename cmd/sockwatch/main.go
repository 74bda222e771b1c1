// Command sockwatch removes a dead process's sock-files the moment it dies, and never a live one.
//
// The program is thin: each subcommand is a file that turns flags into a call of the packages pidfd, reap, watch and
// spawn, and their results into text or JSON lines. What it prints on standard output is data; diagnostics go to
// standard error. root.go says how a subcommand is added.
package main

import (
	"os"

	"github.com/spf13/cobra"
)

func main() {
	a := newApp(os.Stdout, os.Stderr)
	os.Exit(a.exit(run(a, newRootCmd(a), os.Args[1:])))
}

// run runs the command line and gives nil or an error that knows its exit status.
func run(a *app, root *cobra.Command, args []string) error {
	root.SetArgs(args)
	cmd, err := root.ExecuteC()
	if err == nil {
		err = a.stdout.failed()
	}
	return withStatus(cmd, err, a.started)
}
