package main

import (
	"errors"
	"fmt"
	"os"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/sockwatch/sockwatch/internal/proc"
	"github.com/sockwatch/sockwatch/internal/sys"
)

// tree is what run is the parent of: CMD, and those of its descendants that run has adopted when their parent ended. These
// it reaps. CMD is left to os/exec, which wants to know how it ended.
type tree struct {
	app  *app
	gone chan struct{} // closed when CMD was reaped and no child is left, or none that can be made to end

	mu      sync.Mutex
	cmd     int  // its pid until it was reaped, then 0
	over    bool // gone is closed
	killing bool // whoever is adopted is killed
}

func newTree(a *app, cmd int) *tree { return &tree{app: a, cmd: cmd, gone: make(chan struct{})} }

// reap reaps who has ended. Call it on every SIGCHLD: the kernel sends one also for a zombie that is adopted.
//
// How strangers ended is not lost on the watcher: of a process that was reaped, its pidfd tells (Linux 6.15).
func (t *tree) reap() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.over {
		return
	}
	for {
		pid, err := sys.PeekEnded()
		switch {
		case errors.Is(err, unix.ECHILD):
			if t.cmd == 0 {
				t.finish()
			}
			return
		case err != nil:
			t.app.complain("cannot look for children that have ended: %s", err)
			t.finish()
			return
		case pid == 0, pid == t.cmd: // CMD hides the others until it is reaped: see cmdReaped
			if t.killing {
				t.killAdopted()
			}
			return
		}
		if err := reapStranger(pid); err != nil {
			t.app.complain("cannot reap process %d: %s", pid, err)
			t.finish()
			return
		}
	}
}

// reapStranger reaps a child that has ended. Nobody else does, so the pid is not another process's yet.
func reapStranger(pid int) error {
	fd, err := sys.PidfdOpen(pid)
	if err != nil {
		return err
	}
	defer func() { _ = sys.Close(fd) }()
	return sys.PidfdReap(fd)
}

// finish tells that there is nobody to wait for. The caller holds t.mu.
func (t *tree) finish() {
	t.over = true
	close(t.gone)
}

// cmdReaped is to be called when os/exec has reaped CMD: from then on its pid may be a stranger's.
func (t *tree) cmdReaped() {
	t.mu.Lock()
	t.cmd = 0
	t.mu.Unlock()
	t.reap()
}

// signal sends a signal to the adopted children; reached says that those of our process group have got it.
func (t *tree) signal(sig unix.Signal, reached bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	_, failed := t.signalAdopted(sig, func(pid int) bool {
		group, err := unix.Getpgid(pid)
		return reached && err == nil && group == unix.Getpgrp()
	})
	for _, err := range failed {
		t.app.complain("cannot pass %s on: %s", unix.SignalName(sig), err)
	}
}

// kill sends SIGKILL to the adopted children, and to those that are adopted when these end.
func (t *tree) kill() {
	t.mu.Lock()
	t.killing = true
	t.mu.Unlock()
	t.reap()
}

// killAdopted is one round of kill. The end of each of them makes another: what a child leaves behind is ours before
// SIGCHLD tells of its end. The caller holds t.mu.
func (t *tree) killAdopted() {
	dying, failed := t.signalAdopted(unix.SIGKILL, func(int) bool { return false })
	if dying > 0 || len(failed) == 0 || t.cmd != 0 {
		return
	}
	// Only such are left as may not be killed, or cannot: there is nothing to wait for.
	for _, err := range failed {
		t.app.complain("cannot kill what CMD left behind: %s", err)
	}
	t.finish()
}

// signalAdopted sends a signal to each adopted child, and tells how many have got it. The caller holds t.mu: nobody is
// reaped meanwhile.
func (t *tree) signalAdopted(sig unix.Signal, skip func(pid int) bool) (got int, failed []error) {
	children, err := proc.FS("").Children(os.Getpid())
	if err != nil {
		return 0, []error{err}
	}
	for _, pid := range children {
		if pid == t.cmd || skip(pid) {
			continue
		}
		switch err := signalChild(pid, sig); {
		case err == nil:
			got++
		case !errors.Is(err, unix.ESRCH) && !errors.Is(err, unix.ECHILD):
			failed = append(failed, fmt.Errorf("process %d: %w", pid, err))
		}
	}
	return got, failed
}

// signalChild signals a process if it is our child: where /proc is that of another pid namespace, its numbers are not
// ours. ESRCH or ECHILD when it is not.
func signalChild(pid int, sig unix.Signal) error {
	fd, err := sys.PidfdOpen(pid)
	if err != nil {
		return err
	}
	defer func() { _ = sys.Close(fd) }()
	if _, _, err := sys.PidfdPeek(fd); err != nil {
		return err
	}
	return sys.PidfdSignal(fd, sig)
}
