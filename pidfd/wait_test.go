package pidfd

import (
	"context"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

func TestWaitContext(t *testing.T) {
	child := idle(t)
	p := open(t, child.PID())

	canceled, cancel := context.WithCancel(t.Context())
	cancel()
	expired, cancel := context.WithTimeout(t.Context(), 1)
	defer cancel()
	for ctx, want := range map[context.Context]error{canceled: context.Canceled, expired: context.DeadlineExceeded} {
		err := p.Wait(ctx)
		wantErr(t, err, want)
		if !strings.Contains(err.Error(), strconv.Itoa(child.PID())) {
			t.Errorf("%q does not name process %d", err, child.PID())
		}
	}

	// What has happened already is told in any case.
	kill(t, p)
	if err := p.Wait(canceled); err != nil {
		t.Error(err)
	}
	child.Kill()
	if err := p.Wait(canceled); err != nil {
		t.Error(err)
	}
}

// TestWaitTurns cancels whoever waits in the kernel for the others.
func TestWaitTurns(t *testing.T) {
	p := open(t, idle(t).PID())
	var patient, canceled sync.WaitGroup
	for range 50 {
		ctx, cancel := context.WithCancel(t.Context())
		canceled.Go(func() { wantErr(t, p.Wait(ctx), context.Canceled) })
		patient.Go(func() {
			if err := p.Wait(background); err != nil {
				t.Error(err)
			}
		})
		runtime.Gosched()
		cancel()
	}
	canceled.Wait()
	kill(t, p)
	patient.Wait()
}

// TestWaitMany has 2,000 goroutines wait: on few handles, and on so many that only an own descriptor each will do.
func TestWaitMany(t *testing.T) {
	const waits, handles, spareThreads = 2000, 250, 150
	child := idle(t)
	threads, fds := count(t, "/proc/self/task"), count(t, "/proc/self/fd")
	var ps []*Process
	for range handles {
		ps = append(ps, open(t, child.PID()))
	}
	var wg sync.WaitGroup
	for i := range waits {
		wg.Go(func() {
			if err := ps[i%handles].Wait(background); err != nil {
				t.Error(err)
			}
		})
	}
	// The pidfds, and an epoll descriptor for each: then there is a goroutine in the poller for each.
	for count(t, "/proc/self/fd") < fds+2*handles {
		runtime.Gosched()
	}
	kill(t, ps[0])
	wg.Wait()
	// Go keeps the threads that it ever made.
	if now := count(t, "/proc/self/task"); now > threads+spareThreads {
		t.Errorf("%d threads before %d waits, %d after", threads, waits, now)
	}
	if now := count(t, "/proc/self/fd"); now > fds+handles {
		t.Errorf("%d descriptors left of the waits", now-fds-handles)
	}
}

// count counts the entries of a directory of procfs.
func count(t *testing.T, dir string) int {
	t.Helper()
	f, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	names, err := f.Readdirnames(-1)
	if err != nil {
		t.Fatal(err)
	}
	return len(names)
}

func TestWaitClose(t *testing.T) {
	child := idle(t)
	for range 200 {
		p, err := Open(child.PID())
		if err != nil {
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		for range 3 {
			wg.Go(func() { wantErr(t, p.Wait(background), os.ErrClosed) })
		}
		runtime.Gosched()
		if err := p.Close(); err != nil {
			t.Error(err)
		}
		wg.Wait()
	}
}

// TestWaitStranger: a process that is not our child ends for us when it ends, not when its parent reaps it.
func TestWaitStranger(t *testing.T) {
	s := startStranger(t, "sleep", "1000")
	p := open(t, s.pid)
	if err := p.Signal(unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	waitExit(t, p)
	if !isZombie(s.pid) {
		t.Error("reaped")
	}
}
