package main

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"
)

// The exit statuses. Kept is not failure: what is alive or replaced, or was gone already, is 0 as well.
const (
	statusFailed      = 1   // something failed, was refused or could not be found out
	statusUsage       = 2   // the command line is wrong
	statusLeaks       = 3   // check: sock-files were left behind
	statusOwnFailure  = 125 // run and check: sockwatch itself failed, CMD did not run or its status is not known
	statusNotExecuted = 126 // run and check: CMD cannot be executed
	statusNotFound    = 127 // run and check: CMD is not found
)

// exitError is an error with the exit status that it ends the program with. Without an error there is nothing to say:
// it was said already, or the status is that of CMD.
type exitError struct {
	status int
	err    error
}

// exitWith gives err an exit status of its own, against the rules that withStatus goes by. A nil err ends the program
// silently.
func exitWith(status int, err error) error { return &exitError{status, err} }

func (e *exitError) Error() string {
	if e.err == nil {
		return fmt.Sprintf("exit status %d", e.status)
	}
	return e.err.Error()
}

func (e *exitError) Unwrap() error { return e.err }

// usageError is what is wrong with the command line.
type usageError struct{ err error }

// usagef makes the error of a command line that is wrong in a way that only the subcommand can tell. Where to find help
// is added to it.
func usagef(format string, args ...any) error { return &usageError{fmt.Errorf(format, args...)} }

func (e *usageError) Error() string { return e.err.Error() }
func (e *usageError) Unwrap() error { return e.err }

// passesStatusOn marks a command that ends with the exit status of a CMD. Its own failures, wrong usage among them, are
// 125 to be told from CMD's, as those of env(1) and timeout(1).
func passesStatusOn(cmd *cobra.Command) {
	if cmd.Annotations == nil {
		cmd.Annotations = map[string]string{}
	}
	cmd.Annotations[passesOn] = ""
}

const passesOn = "sockwatch_passes_status_on"

// withStatus gives the error of a command its exit status, and what is wrong with the command line a word on where to
// find help. What cobra refuses before the command has started is wrong usage.
func withStatus(cmd *cobra.Command, err error, started bool) error {
	var exit *exitError
	if err == nil || errors.As(err, &exit) {
		return err
	}
	status := statusFailed
	var usage *usageError
	if !started || errors.As(err, &usage) {
		status = statusUsage
		err = fmt.Errorf("%w (see '%s --help')", err, cmd.CommandPath())
	}
	if _, ok := cmd.Annotations[passesOn]; ok {
		status = statusOwnFailure
	}
	return exitWith(status, err)
}

// exit says what there is to say of run's error and gives the exit status.
func (a *app) exit(err error) int {
	if err == nil {
		return 0
	}
	var exit *exitError
	if !errors.As(err, &exit) {
		exit = &exitError{statusFailed, err}
	}
	if exit.err != nil {
		a.complain("%s", err)
	}
	return exit.status
}
