package spawn

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sockwatch/sockwatch/internal/proc"
	"github.com/sockwatch/sockwatch/pidfd"
)

// victim is a process that is being killed, with its descendants if they are to die with it.
type victim struct {
	root *pidfd.Process
	pid  int // of root, as long as it is known
	tree bool
	wait func(context.Context) error // for the end of root

	descendants []*pidfd.Process         // parents before their children
	known       map[int]*pidfd.Process   // the same by pid
	refused     map[*pidfd.Process]error // which of them may not be signalled
}

func (v *victim) close() {
	for _, p := range v.descendants {
		_ = p.Close()
	}
}

// all are the process and its descendants, parents before their children.
func (v *victim) all() []*pidfd.Process {
	return append([]*pidfd.Process{v.root}, v.descendants...)
}

// kill asks, waits and kills. It calls snapshot before it sends a signal, and again before SIGKILL. It returns when the
// processes have ended or ctx is done.
func (v *victim) kill(ctx context.Context, o KillOptions, snapshot func()) (killed bool, err error) {
	v.pid = v.root.PID()
	switch exited, err := v.root.Exited(); {
	case err != nil:
		return false, fmt.Errorf("kill a process: %w", err)
	case exited:
		snapshot() // of descendants there is nobody left to list; what a zombie had open is gone
		// That it has ended may not have been reported yet; it is about to be.
		return false, v.wait(context.WithoutCancel(ctx))
	}
	v.list(nil)
	snapshot()
	answer := func() error { return nil }
	if patience := o.patience(); patience > 0 {
		var ended bool
		if ended, answer = v.ask(ctx, o, patience); ended {
			return false, errors.Join(answer(), v.refusals())
		}
	}
	// A stopped process neither forks nor binds: what is listed and seen now is all there is.
	if v.tree {
		v.list(func(p *pidfd.Process) { _ = p.Signal(unix.SIGSTOP) })
	}
	snapshot()
	slain := v.slay(ctx, o)
	return true, errors.Join(answer(), slain, v.refusals())
}

// ask asks the processes to end and waits for it, up to patience. What came of asking is told by answer, as far as it is known by then.
func (v *victim) ask(ctx context.Context, o KillOptions, patience time.Duration) (ended bool, answer func() error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	asked := make(chan error, 1)
	if o.Ask != nil {
		go func() { asked <- callAsk(ctx, o.Ask) }()
	} else {
		err := v.signal(o.signal(), o.Group)
		if err != nil {
			cancel() // who may not ask may not kill either: nothing to wait for
		}
		asked <- err
	}
	ended = v.waitAll(ctx) == nil
	return ended, func() error {
		select {
		case err := <-asked:
			if err != nil {
				return fmt.Errorf("ask process %d to end: %w", v.pid, err)
			}
		default: // it does not heed its context; that is no reason to wait for it
		}
		return nil
	}
}

// callAsk is where foreign code runs: what it does must not keep the kill from happening.
func callAsk(ctx context.Context, ask func(context.Context) error) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("panic: %v", r)
		}
	}()
	err = ask(ctx)
	if ctx.Err() != nil && errors.Is(err, ctx.Err()) {
		return nil // that it was called back is no failure, and may be heard of or not
	}
	return err
}

// slay sends SIGKILL and waits for the end.
func (v *victim) slay(ctx context.Context, o KillOptions) error {
	if err := v.signal(unix.SIGKILL, o.Group); err != nil {
		return fmt.Errorf("kill process %d: %w", v.pid, err)
	}
	err := v.waitAll(ctx)
	if err != nil && ctx.Err() != nil { // before the signal or since
		late, cancel := context.WithTimeout(context.WithoutCancel(ctx), afterCancel)
		defer cancel()
		err = v.waitAll(late)
	}
	if err != nil {
		return fmt.Errorf("process %d does not end after SIGKILL: %w", v.pid, err)
	}
	return nil
}

// signal sends sig to the processes, children before their parents: who restarts a child that ended is ending itself, or stopped. A process
// that is gone already is as good as one that was hit. The error is that of the process itself.
func (v *victim) signal(sig unix.Signal, group bool) error {
	for i := len(v.descendants) - 1; i >= 0; i-- {
		v.signalDescendant(v.descendants[i], sig)
	}
	err := error(pidfd.ErrExited)
	if group {
		err = v.root.SignalGroup(sig)
	}
	if errors.Is(err, pidfd.ErrExited) { // there is no such group
		err = v.root.Signal(sig)
	}
	if errors.Is(err, pidfd.ErrExited) {
		return nil
	}
	return err
}

// signalDescendant sends sig to a descendant. Who may not be signalled stays, and so do its files: nobody waits for it.
func (v *victim) signalDescendant(p *pidfd.Process, sig unix.Signal) {
	err := p.Signal(sig)
	if err == nil || errors.Is(err, pidfd.ErrExited) {
		delete(v.refused, p)
		return
	}
	if v.refused == nil {
		v.refused = map[*pidfd.Process]error{}
	}
	v.refused[p] = err
}

// refusals tells of the descendants that could not be signalled.
func (v *victim) refusals() error {
	var all []error
	for _, p := range v.descendants {
		all = append(all, v.refused[p])
	}
	return errors.Join(all...)
}

// waitAll waits until all have ended that can be made to.
func (v *victim) waitAll(ctx context.Context) error {
	if err := v.wait(ctx); err != nil {
		return err
	}
	for _, p := range v.descendants {
		if v.refused[p] != nil {
			continue
		}
		if err := p.Wait(ctx); err != nil {
			return err
		}
	}
	return nil
}

// list finds descendants until none is new, and calls found, if set, for each process once, its first time or not.
func (v *victim) list(found func(*pidfd.Process)) {
	if !v.tree {
		return
	}
	if v.known == nil {
		v.known = map[int]*pidfd.Process{}
	}
	if found != nil {
		for _, p := range v.all() {
			found(p)
		}
	}
	for {
		before := len(v.descendants)
		for _, parent := range v.all() {
			v.listChildren(parent, found)
		}
		if len(v.descendants) == before {
			return
		}
	}
}

// listChildren opens the children of parent that are not known yet. A pid read from /proc can be another process's by
// the time that it is opened; it is a child if parent is there still, and says so again.
//
// We are not among them: stopped, we would leave all the others stopped for ever.
func (v *victim) listChildren(parent *pidfd.Process, found func(*pidfd.Process)) {
	pid := parent.PID()
	children, err := proc.FS("").Children(pid)
	if err != nil {
		return // gone: its children are somebody else's by now
	}
	for _, child := range children {
		// A pid that is known can be given to another descendant once the first one is reaped.
		if known := v.known[child]; child == os.Getpid() || known != nil && known.PID() == child {
			continue
		}
		p, err := pidfd.Open(child)
		if err != nil {
			continue
		}
		info, err := p.Info()
		if err != nil || info.PPID != pid || parent.PID() != pid {
			_ = p.Close()
			continue
		}
		v.known[child] = p
		v.descendants = append(v.descendants, p)
		if found != nil {
			found(p)
		}
	}
}
