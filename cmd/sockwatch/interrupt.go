package main

import (
	"context"
	"errors"
	"os"
	"os/signal"

	"golang.org/x/sys/unix"
)

// interruptError is the cause of a context that a signal ended.
type interruptError struct{ sig unix.Signal }

func (e interruptError) Error() string { return "interrupted by " + unix.SignalName(e.sig) }

// untilInterrupted gives a context that ends with the first SIGINT, SIGTERM or SIGHUP, for what must not be torn in two.
// Those that were ignored when the program was started, by nohup(1) for one, stay ignored.
func untilInterrupted(parent context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(parent)
	got := make(chan os.Signal, 1)
	for _, sig := range []unix.Signal{unix.SIGINT, unix.SIGTERM, unix.SIGHUP} {
		if !signal.Ignored(sig) {
			signal.Notify(got, sig)
		}
	}
	go func() {
		select {
		case sig := <-got:
			cancel(interruptError{sig.(unix.Signal)})
		case <-ctx.Done():
		}
	}()
	return ctx, func() {
		signal.Stop(got)
		cancel(nil)
	}
}

// interrupted gives the exit status of a command whose context a signal has ended: that of a program that the signal
// killed.
func interrupted(ctx context.Context) (status int, ok bool) {
	var by interruptError
	if !errors.As(context.Cause(ctx), &by) {
		return 0, false
	}
	return 128 + int(by.sig), true
}
