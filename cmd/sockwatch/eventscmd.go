package main

import (
	"cmp"
	"context"
	"errors"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/sockwatch/sockwatch/client"
)

func newEventsCmd(a *app) *cobra.Command {
	var (
		daemon daemonFlags
		follow bool
		asJSON bool
	)
	cmd := &cobra.Command{
		Use:        "events [flags]",
		Short:      "Tell what the daemon has done, and what it does",
		SuggestFor: []string{"history", "log", "logs", "monitor"},
		GroupID:    groupDaemon,
		Long: `Print the outcomes that the sockwatch daemon remembers, up to 1000, the oldest
first: which sock-file was removed or kept, when, whose it was. With --follow,
go on with what happens from then on, which is more: also claims, and the ends
of processes. Root is told of all processes, other users of their own.

    removed, gone, alive, replaced, unknown, refused, failed
             what became of a sock-file
    claim    a sock-file was claimed for a process
    exit     a process has ended, and how

With --json each is an object with the fields of 'sockwatch run --events' (type,
time, pid, comm, path, source, outcome, reason, error, exit, after_exit_us), and
process (PID:INODE), uid and dry_run.

--follow ends when a signal ends it, such as Ctrl-C, and with exit status 1 when
the daemon ends. Where events come faster than they are printed some are left
out, and standard error tells how many.

The exit status is 1, too, if there is no daemon.`,
		Example: `  # What was removed?
  sockwatch events

  # What was kept, and why, from now on and before
  sockwatch events --follow --json |
      jq -c 'select(.outcome=="alive") | [.path, .reason]'`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			d, err := daemon.dial(cmd.Context())
			if err != nil {
				return err
			}
			defer d.Close()
			t := eventTeller{app: a, asJSON: asJSON, told: map[eventKey]bool{}}
			if !follow {
				return t.history(cmd.Context(), d)
			}
			stream, err := daemon.dial(cmd.Context())
			if err != nil {
				return err
			}
			defer stream.Close()
			return t.follow(cmd.Context(), d, stream)
		},
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	cmd.Flags().BoolVarP(&follow, "follow", "f", false, "go on with what happens from now on, until a signal comes")
	daemon.register(cmd)
	jsonFlag(cmd, &asJSON)
	return cmd
}

// eventTeller prints Events.
type eventTeller struct {
	app    *app
	asJSON bool
	told   map[eventKey]bool // those of the history, which may be streamed, too
}

// eventKey is what makes an outcome different from others.
type eventKey struct{ kind, time, process, path string }

// history prints what the daemon remembers and was not printed.
func (t *eventTeller) history(ctx context.Context, d *client.Client) error {
	events, err := d.History(ctx, "")
	if err != nil {
		return err
	}
	for _, e := range events {
		t.tellOnce(e)
	}
	return nil
}

// follow prints what the daemon remembers, and what happens, until the stream ends.
func (t *eventTeller) follow(ctx context.Context, d, stream *client.Client) error {
	if err := t.history(ctx, d); err != nil {
		return err
	}
	began, dropped := false, uint64(0)
	for m, err := range stream.Monitor(ctx) {
		if err != nil {
			return err
		}
		if !began {
			began = true
			// The stream began after the first look at the history, and what happened in between is in neither.
			if err := t.history(ctx, d); err != nil {
				return err
			}
		}
		if m.Dropped > dropped {
			t.app.complain("%d events are left out: they came faster than they were read", m.Dropped-dropped)
			dropped = m.Dropped
		}
		if m.Event.Type != "" {
			t.tell(m.Event)
		}
		if t.app.stdout.failed() != nil {
			return nil // nobody would learn of the rest
		}
	}
	return client.ErrDisconnected
}

func (t *eventTeller) tellOnce(e client.Event) {
	key := eventKey{e.Type, e.Time, e.Process, e.Exact()}
	if t.told[key] {
		return
	}
	t.told[key] = true
	t.print(e)
}

// tell prints an Event of the stream, unless the history had it.
func (t *eventTeller) tell(e client.Event) {
	if !t.told[eventKey{e.Type, e.Time, e.Process, e.Exact()}] {
		t.print(e)
	}
}

func (t *eventTeller) print(e client.Event) {
	if t.asJSON {
		t.app.stdout.object(e)
		return
	}
	t.app.stdout.printEvent(e)
}

// printEvent prints an Event as a line: when, what, the path, and what else there is to say.
func (o *output) printEvent(e client.Event) {
	what := word(cmp.Or(e.Outcome, e.Type))
	column := strings.Repeat(" ", max(0, len("replaced")-len(what)))
	about := []string{processAndComm(e.Process, e.Comm)}
	if e.Type == "exit" {
		o.printf("%s  %s"+column+"  %s: %s\n", errors.New(eventTime(e.Time)), what, about[0], errors.New(e.Exit))
		return
	}
	if e.Type == "claim" {
		about = append(about, e.Source)
	}
	for _, more := range []string{e.Exit, e.Reason, strings.ReplaceAll(e.Error, "\n", "; ")} {
		if more != "" {
			about = append(about, more)
		}
	}
	if e.DryRun {
		about = append(about, "dry run")
	}
	o.printf("%s  %s"+column+"  %s  [%s]\n", errors.New(eventTime(e.Time)), what, e.Exact(), errors.New(strings.Join(about, "; ")))
}

// eventTime is the time of an Event for people, to the millisecond.
func eventTime(s string) string {
	t, err := time.Parse(time.RFC3339Nano, s)
	if err != nil {
		return s
	}
	return t.Local().Format("2006-01-02 15:04:05.000")
}
