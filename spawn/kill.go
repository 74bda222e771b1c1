package spawn

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sockwatch/sockwatch/pidfd"
	"github.com/sockwatch/sockwatch/reap"
	"github.com/sockwatch/sockwatch/watch"
)

// DefaultTerminateAfter is how long a process that was asked to end is waited for.
const DefaultTerminateAfter = 1600 * time.Millisecond

// afterCancel is how long the end of a process that got SIGKILL is waited for when the context is done already. Tests have it longer.
var afterCancel = time.Second

// KillOptions says how to kill. The zero value sends SIGTERM, waits 1.6 s and sends SIGKILL.
type KillOptions struct {
	// Ask asks the process to end, in place of Signal. Its context ends with the patience. It runs beside the waiting, and
	// neither an error nor a panic of it keeps anything from happening: both are recorded in KillResult.Err.
	Ask func(context.Context) error
	// Signal is what a process is asked by. The zero value is SIGTERM.
	Signal unix.Signal
	// TerminateAfter is the patience after asking. The zero value is 1.6 s; negative is none: SIGKILL at once.
	TerminateAfter time.Duration
	// Group sends the signals to the process group that the process leads, if it leads one.
	Group bool
	// Tree kills all descendants but ourselves, too. They are asked together with the process; before SIGKILL they are stopped and listed
	// anew until none is new, so that none escapes by forking.
	Tree bool
}

func (o KillOptions) patience() time.Duration {
	if o.TerminateAfter == 0 {
		return DefaultTerminateAfter
	}
	return o.TerminateAfter
}

func (o KillOptions) signal() unix.Signal {
	if o.Signal == 0 {
		return unix.SIGTERM
	}
	return o.Signal
}

// KillResult tells what a hard kill did.
type KillResult struct {
	Killed bool          // SIGKILL was needed
	Exit   pidfd.Exit    // how the process ended
	Files  []reap.Result // what became of its sock-files
	Err    error         // of the kill itself, never of one file
	// SnapshotErr is why not everything could be seen that the process had bound. A process that is not dumpable,
	// ssh-agent for one, refuses even its own user.
	SnapshotErr error
}

// HardKill kills any process that the caller may signal, and removes what it left behind: what it holds when it is asked
// and when it is killed (see reap.Held), and what t says. The process stays the caller's to Close and, if it is a child, to wait for.
//
// The removal always happens, also when the process was dead already or cannot be killed: what is alive is kept. A done ctx ends the
// patience: SIGKILL follows at once, and its effect is waited for one more second at the most. A process in
// uninterruptible sleep does not end before it wakes.
//
// Idempotent; it never panics. Errors: pidfd.ErrPermission, pidfd.ErrUnsupported, the context's.
func HardKill(ctx context.Context, p *pidfd.Process, o KillOptions, t reap.Target) KillResult {
	v := &victim{root: p, tree: o.Tree, wait: p.Wait}
	defer v.close()
	var r KillResult
	var held []*reap.File
	snapshot := func() {
		r.SnapshotErr = nil
		for _, p := range v.all() {
			files, err := reap.Held(p, t.Bindspaces...)
			held = append(held, files...)
			if err != nil && !errors.Is(err, pidfd.ErrExited) {
				r.SnapshotErr = errors.Join(r.SnapshotErr, err)
			}
		}
	}
	r.Killed, r.Err = v.kill(ctx, o, snapshot)
	r.Exit = p.Exit()

	if t.PID == 0 {
		t.PID = v.pid
		if id, err := p.Identity(); err == nil { // reaped before: it had that number
			t.PID = id.PID
		}
	}
	t.Files = append(held, t.Files...)
	r.Files = reap.AfterKill(t)
	for _, f := range held {
		_ = f.Close()
	}
	return r
}

// HardKill kills the child and removes what it left behind: what is claimed, and what it holds when it is asked and
// when it is killed. It reaps the child and waits until its claims are settled. See the function HardKill for what
// it promises.
//
// When the child cannot be killed before ctx ends, its claims stay armed: its files go when it does. The files of
// a child whose Owner was released or whose Watcher is closed are not touched.
func (c *Child) HardKill(ctx context.Context, o KillOptions) KillResult {
	var r KillResult
	var inherited []*reap.File
	ended := true
	p, err := pidfd.FromProcess(c.cmd.Process)
	if err == nil {
		inherited = c.kill(ctx, p, o, &r)
		ended, _ = p.Exited()
		_ = p.Close()
	} else if !errors.Is(err, pidfd.ErrExited) { // reaped by another call: only the result is left to tell
		r.Err = err
		ended = false
	}
	if ended {
		_ = c.Wait() // how it ended is in Exit
	} else if r.Err == nil {
		r.Err = fmt.Errorf("process %d is still there", c.PID())
	}
	r.Exit, r.Files = c.owner.Exit(), c.owner.Results()
	settleInherited(r.Files, inherited)
	for _, f := range inherited {
		_ = f.Close()
	}
	return r
}

// kill returns what descendants held.
func (c *Child) kill(ctx context.Context, p *pidfd.Process, o KillOptions, r *KillResult) (inherited []*reap.File) {
	v := &victim{root: p, tree: o.Tree, wait: func(ctx context.Context) error {
		select {
		case <-c.owner.Exited():
			return p.Wait(ctx) // it is closed, too, for an Owner that was released
		case <-ctx.Done():
			return ctx.Err()
		}
	}}
	defer v.close()
	snapshot := func() {
		r.SnapshotErr = nil
		note := func(err error) {
			// The watcher gives its handle up once the process has ended.
			if err != nil && !errors.Is(err, pidfd.ErrExited) && !errors.Is(err, os.ErrClosed) {
				r.SnapshotErr = errors.Join(r.SnapshotErr, err)
			}
		}
		_, err := c.owner.Snapshot()
		note(err)
		for _, p := range v.descendants {
			files, err := reap.Held(p)
			note(err)
			for _, f := range files {
				if _, err := c.owner.ClaimFile(f, watch.SourceSnapshot); err != nil {
					_ = f.Close()
				}
			}
			files, _ = reap.Held(p) // the others are the Watcher's now
			inherited = append(inherited, files...)
		}
	}
	r.Killed, r.Err = v.kill(ctx, o, snapshot)
	return inherited
}

// settleInherited removes what was kept because a descendant held it that is dead by now, too. The Watcher does so as
// well, at a time that nobody can wait for.
func settleInherited(results []reap.Result, inherited []*reap.File) {
	for i, r := range results {
		if r.Outcome != reap.OutcomeAlive {
			continue
		}
		for _, f := range inherited {
			if f.Path() == r.Path {
				results[i] = reap.AfterKill(reap.Target{Files: []*reap.File{f}})[0]
			}
		}
	}
}
