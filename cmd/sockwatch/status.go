package main

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/sockwatch/sockwatch/client"
)

func newStatusCmd(a *app) *cobra.Command {
	var (
		daemon daemonFlags
		asJSON bool
	)
	cmd := &cobra.Command{
		Use:     "status [flags]",
		Short:   "Tell what the daemon watches, and how it does",
		GroupID: groupDaemon,
		Long: `Tell which process the sockwatch daemon is, since when it runs, and what it
watches: a line for each sock-file that is claimed, or one for a process with
none. Root is told of all processes, other users of their own.

    PROCESS  PID:INODE, for 'sockwatch unwatch' and 'sockwatch kill'
    SOURCE   how the claim was learnt: explicit, notify, trace, bindspace,
             snapshot or convention; pending: the file is not there yet
    OUTCOME  of the latest attempt to remove it, when the process has ended
    REASON   for that

With --json it is an object with type "daemon": pid, version, started,
runtime_dir, notify, dry_run, owners, claims, events_dropped, reports_dropped;
and for each process one with type "owner": id, process, pid, comm, uid,
registered_by, name, bindspaces, conventions, ended, exit, claims (path, source,
pending, outcome, reason).

The exit status is 1 if there is no daemon.`,
		Example: `  sockwatch status

  # Does one run?
  sockwatch status >/dev/null 2>&1 && echo yes

  # Which files are claimed for process 1234?
  sockwatch status --json | jq -r 'select(.pid==1234).claims[]?.path'`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			d, err := daemon.dial(cmd.Context())
			if err != nil {
				return err
			}
			defer d.Close()
			status, err := d.Status(cmd.Context())
			if err != nil {
				return err
			}
			owners, err := d.List(cmd.Context())
			if err != nil {
				return err
			}
			slices.SortStableFunc(owners, func(a, b client.Owner) int { return cmp.Compare(a.PID, b.PID) })
			if asJSON {
				a.stdout.object(jsonDaemon{"daemon", status})
				for _, o := range owners {
					a.stdout.object(jsonOwner{"owner", o})
				}
				return nil
			}
			printStatus(a.stdout, status)
			printOwners(a.stdout, owners)
			return nil
		},
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	daemon.register(cmd)
	jsonFlag(cmd, &asJSON)
	return cmd
}

// jsonDaemon is the state of the daemon in the JSON interface.
type jsonDaemon struct {
	Type string `json:"type"` // "daemon"
	client.Status
}

// jsonOwner is a process that is watched, in the JSON interface.
type jsonOwner struct {
	Type string `json:"type"` // "owner"
	client.Owner
}

func printStatus(o *output, s client.Status) {
	since := s.Started
	if t, err := time.Parse(time.RFC3339Nano, s.Started); err == nil {
		since = t.Local().Format("2006-01-02 15:04:05")
	}
	o.line("daemon", "process %d, version %s, since %s", s.PID, s.Version, since)
	o.line("sockets", "%s", s.RuntimeDir)
	o.line("reports", "%s", cmp.Or(s.Notify, "none are taken"))
	if s.TraceHooks != "" {
		o.line("traced", "every bind on the machine, by %s", s.TraceHooks)
	}
	if s.DryRun {
		o.line("dry run", "nothing is removed")
	}
	o.line("watched", "%s, %s", errors.New(countOf(s.Owners, "process")), errors.New(countOf(s.Claims, "claim")))
	if s.EventsDropped > 0 {
		o.line("missed", "%d events, by who was too slow to read them", s.EventsDropped)
	}
	if s.TraceLost > 0 {
		o.line("missed", "%d binds at first: they came faster than they could be read, and were looked for", s.TraceLost)
	}
	if s.ReportsDropped > 0 {
		o.line("missed", "%d reports: they came faster than they could be read", s.ReportsDropped)
	}
}

func printOwners(o *output, owners []client.Owner) {
	if len(owners) == 0 {
		return
	}
	o.printf("\n")
	t := o.table("PROCESS", "COMM", "USER", "SOURCE", "OUTCOME", "REASON", "PATH")
	for _, owner := range owners {
		row := func(claim client.Claim) {
			source := claim.Source
			if claim.Pending {
				source += " (pending)"
			}
			t.row(owner.Process, owner.Comm, userOr(owner.UID), source, claim.Outcome, claim.Reason, claim.Exact())
		}
		slices.SortStableFunc(owner.Claims, func(a, b client.Claim) int { return cmp.Compare(a.Exact(), b.Exact()) })
		for _, claim := range owner.Claims {
			row(claim)
		}
		if len(owner.Claims) == 0 {
			row(client.Claim{})
		}
	}
	t.flush()
}

// countOf says how many there are of what.
func countOf(n int, what string) string {
	switch {
	case n == 1:
		return "1 " + what
	case what == "process":
		what += "e"
	}
	return fmt.Sprintf("%d %ss", n, what)
}
