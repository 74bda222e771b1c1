package main

import (
	"errors"
	"fmt"
	"slices"

	"github.com/spf13/cobra"

	"github.com/sockwatch/sockwatch/client"
	"github.com/sockwatch/sockwatch/pidfd"
)

func newWatchCmd(a *app) *cobra.Command {
	var (
		daemon daemonFlags
		claims claimFlags
		asJSON bool
	)
	cmd := &cobra.Command{
		Use:        "watch [flags] PID [PATH]...",
		Short:      "Have the daemon remove a process's sock-files when it ends",
		SuggestFor: []string{"register", "add"},
		GroupID:    groupDaemon,
		Long: `Register a process with the sockwatch daemon. When it has ended, however that
comes, the daemon removes the sock-files that it leaves behind. That holds also
when the daemon is killed meanwhile and started again.

The daemon looks at the sockets that the process has open now, and claims their
files for it. What it binds later can be told, and what only its children have
open, as haproxy's workers: a PATH, which need not exist yet (--bind does the
same), or a directory (--bindspace) and how the files in it are named
(--convention). To watch a process again adds to what is claimed.

PID is a process id, or PID:INODE, which no other process can come to have:
sockwatch prints it, and so does getino(1). Users may have their own processes
and sock-files watched, root those of everybody. Paths are taken as the process
sees them, relative ones from the working directory of this command.

The daemon is the one whose control socket is found first: in --runtime-dir, in
$SOCKWATCH_RUNTIME_DIR; or else in $XDG_RUNTIME_DIR/sockwatch, /run/sockwatch.

With --json it prints an object with id, process (PID:INODE), pid, comm and
claims, the number of files that are claimed for the process now.

The exit status is 1 if there is no such process, no daemon, or if the daemon
refuses it.`,
		Example: `  # A server that runs already
  sockwatch watch "$(cat /run/redis/redis.pid)"

  # It will bind two sockets
  sockwatch watch 1234 /run/app/control.sock /run/app/data.sock

  # Its sock-files are named by name and pid
  sockwatch watch --preset tractor --name worker 1234`,
		Args: needArgs("PID"),
		RunE: func(cmd *cobra.Command, args []string) error {
			id, err := pidfd.ParseIdentity(args[0])
			if err != nil {
				return usagef("%w", err)
			}
			claims.paths = append(claims.paths, args[1:]...)
			c, err := claims.resolve("")
			if err != nil {
				return err
			}
			p, err := id.Open()
			if errors.Is(err, pidfd.ErrExited) {
				return fmt.Errorf("there is no process %s: %w", id, err)
			}
			if err != nil {
				return err
			}
			defer p.Close()
			// From here on no other process is meant, whatever number was given.
			if id, err = p.Identity(); err != nil {
				return err
			}
			w := jsonWatched{Process: id.String(), PID: id.PID}
			if info, err := p.Info(); err == nil {
				w.Comm = info.Comm
			}
			d, err := daemon.dial(cmd.Context())
			if err != nil {
				return err
			}
			defer d.Close()
			watched, err := d.Watch(cmd.Context(), c.watchRequest(id))
			if err != nil {
				return fmt.Errorf("watch process %s: %w", id, err)
			}
			w.ID, w.Claims = watched.ID, &watched.Claims
			if asJSON {
				a.stdout.object(w)
				return nil
			}
			a.stdout.printf("watching %s, %s\n", w, errors.New(countOf(watched.Claims, "claim")))
			return nil
		},
		ValidArgsFunction: func(_ *cobra.Command, args []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
			if len(args) == 0 {
				return nil, cobra.ShellCompDirectiveNoFileComp
			}
			return nil, cobra.ShellCompDirectiveDefault
		},
	}
	claims.register(cmd)
	daemon.register(cmd)
	jsonFlag(cmd, &asJSON)
	return cmd
}

func newUnwatchCmd(a *app) *cobra.Command {
	var (
		daemon daemonFlags
		asJSON bool
	)
	cmd := &cobra.Command{
		Use:        "unwatch [flags] PID",
		Short:      "Have the daemon watch a process no more",
		SuggestFor: []string{"unregister", "forget"},
		GroupID:    groupDaemon,
		Long: `End what 'sockwatch watch' has begun, and drop all claims of the process. Its
sock-files are kept. So they are when the process has ended already and the
daemon waits for others that hold its sockets.

PID is a process id, or PID:INODE as 'sockwatch status' prints it. Where several
users have registered the process, root ends it for all of them.

With --json it prints an object with id, process (PID:INODE), pid and comm.

The exit status is 1 if the process is not watched for this user, if the daemon
watches it by itself, or if there is no daemon.`,
		Example: `  sockwatch unwatch 1234

  # All that this user has registered
  sockwatch status --json | jq -r 'select(.type=="owner").process' |
      xargs -n 1 sockwatch unwatch`,
		Args: oneArg("PID"),
		RunE: func(cmd *cobra.Command, args []string) error {
			id, err := pidfd.ParseIdentity(args[0])
			if err != nil {
				return usagef("%w", err)
			}
			d, err := daemon.dial(cmd.Context())
			if err != nil {
				return err
			}
			defer d.Close()
			owners, err := d.List(cmd.Context())
			if err != nil {
				return err
			}
			found := ownersMeant(owners, id)
			registered := slices.DeleteFunc(slices.Clone(found), func(o client.Owner) bool { return o.RegisteredBy == nil })
			switch {
			case len(found) == 0:
				return fmt.Errorf("process %s: %w", id, client.ErrNoSuchOwner)
			case len(registered) == 0:
				return fmt.Errorf("process %s was not registered: the daemon has found it by itself, by a report or in a bindspace", id)
			}
			for _, o := range registered {
				if err := d.Unwatch(cmd.Context(), o.ID); err != nil {
					return fmt.Errorf("process %s: %w", o.Process, err)
				}
				w := jsonWatched{ID: o.ID, Process: o.Process, PID: o.PID, Comm: o.Comm}
				if asJSON {
					a.stdout.object(w)
				} else {
					a.stdout.printf("no longer watching %s\n", w)
				}
			}
			return nil
		},
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	daemon.register(cmd)
	jsonFlag(cmd, &asJSON)
	return cmd
}

// ownersMeant gives those of the owners that id means. A pid alone means who has it now: those that have ended only where
// there is nobody else.
func ownersMeant(owners []client.Owner, id pidfd.Identity) []client.Owner {
	var now, ended []client.Owner
	for _, o := range owners {
		known, err := pidfd.ParseIdentity(o.Process)
		switch {
		case err != nil, known.PID != id.PID,
			id.Inode != 0 && known.Inode != id.Inode, id.StartTime != 0 && known.StartTime != id.StartTime:
		case o.Ended:
			ended = append(ended, o)
		default:
			now = append(now, o)
		}
	}
	if id.Inode != 0 || id.StartTime != 0 {
		return append(now, ended...)
	}
	if len(now) > 0 {
		return now
	}
	return ended
}

// jsonWatched is what watch and unwatch print, in the JSON interface.
type jsonWatched struct {
	ID      string `json:"id"`
	Process string `json:"process"`
	PID     int    `json:"pid"`
	Comm    string `json:"comm,omitempty"`
	Claims  *int   `json:"claims,omitempty"` // of watch
}

func (w jsonWatched) String() string { return processAndComm(w.Process, w.Comm) }

// processAndComm is how text names a process that is watched.
func processAndComm(process, comm string) string {
	if comm == "" {
		return process
	}
	return fmt.Sprintf("%s (%s)", process, comm)
}
