package main

import (
	"bufio"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sockwatch/sockwatch/pidfd"
	"github.com/sockwatch/sockwatch/reap"
	"github.com/sockwatch/sockwatch/watch"
)

// server is sockwatch's side: what `floor watch` and `floor burst` do, done by package watch as any program would use
// it. The children are the floor's own (`floor child`), so that the kernel has the same to tear down.
type server struct {
	floor, dir string

	w      *watch.Watcher
	events *watch.Subscription

	ready, readyW *os.File // children write a byte each when they listen
	stay, stayW   *os.File // the children's stdin: its end is the end of them

	owners  []served
	started time.Time
}

// served is one owner.
type served struct {
	pid     int
	path    string
	process *pidfd.Process // the watcher's
}

// serve is the program's other half: `bench watch|burst N DIR FLOOR`.
func serve(mode, count, dir, floor string) error {
	n, err := strconv.Atoi(count)
	if err != nil {
		return err
	}
	s := &server{floor: floor, dir: dir, owners: make([]served, n), started: time.Now()}
	if s.w, err = watch.New(watch.Options{}); err != nil {
		return err
	}
	defer s.w.Close()
	// An owner has three Events: claimed, exited, outcome.
	s.events = s.w.Subscribe(3*n + 3)
	if s.ready, s.readyW, err = os.Pipe(); err != nil {
		return err
	}
	if s.stay, s.stayW, err = os.Pipe(); err != nil {
		return err
	}
	for i := range s.owners {
		if err := s.spawn(i); err != nil {
			return err
		}
	}
	if err := s.awaitReady(n); err != nil {
		return err
	}
	heap, err := s.claimAll()
	if err != nil {
		return err
	}
	out := bufio.NewWriter(os.Stdout)
	fmt.Fprintf(out, "{\"watched\":%d,\"heap_per_owner\":%d}\n", n, heap/int64(n))
	if err := out.Flush(); err != nil {
		return err
	}
	if mode == "watch" {
		for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
			samples, err := strconv.Atoi(lines.Text())
			if err != nil {
				return err
			}
			for range samples {
				if err := s.sample(out); err != nil {
					return err
				}
			}
			if err := out.Flush(); err != nil {
				return err
			}
		}
	}
	b, err := s.killAll()
	if err != nil {
		return err
	}
	if mode == "burst" {
		fmt.Fprintf(out, "{\"kill_ns\":%d,\"killed_ns\":%d,\"gone_ns\":%d}\n", b.Kill, b.Killed, b.Gone)
	}
	return out.Flush()
}

// since is a time as it is printed. The times are monotonic.
func (s *server) since(t time.Time) int64 { return t.Sub(s.started).Nanoseconds() }

// spawn starts an owner. It is not os/exec's: that has a descriptor of its own for each child.
func (s *server) spawn(i int) error {
	path := filepath.Join(s.dir, strconv.Itoa(i)+".sock")
	pid, err := syscall.ForkExec(s.floor, []string{"floor", "child", path}, &syscall.ProcAttr{
		Env:   os.Environ(),
		Files: []uintptr{s.stay.Fd(), s.readyW.Fd(), 2},
	})
	s.owners[i] = served{pid: pid}
	return os.NewSyscallError("fork", err)
}

// awaitReady returns when n more children listen.
func (s *server) awaitReady(n int) error {
	if err := s.ready.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
		return err
	}
	if _, err := io.CopyN(io.Discard, s.ready, int64(n)); err != nil {
		return fmt.Errorf("a child never listened: %w", err)
	}
	return nil
}

// claimAll watches all owners and returns how much heap that took.
func (s *server) claimAll() (heap int64, err error) {
	before := heapInUse()
	for i := range s.owners {
		if err := s.claim(i); err != nil {
			return 0, err
		}
	}
	for range s.owners { // they would keep their strings
		<-s.events.C()
	}
	return heapInUse() - before, nil
}

func heapInUse() int64 {
	runtime.GC()
	runtime.GC() // what the first one has finalized
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// claim watches an owner with its one sock-file.
func (s *server) claim(i int) error {
	o := &s.owners[i]
	p, err := pidfd.Open(o.pid)
	if err != nil {
		return err
	}
	o.path = filepath.Join(s.dir, strconv.Itoa(i)+".sock")
	if _, err := s.w.Add(p, watch.OwnerOptions{Paths: []string{o.path}}); err != nil {
		_ = p.Close()
		return err
	}
	o.process = p
	return nil
}

// sample kills one owner and starts another in its place.
func (s *server) sample(out *bufio.Writer) error {
	i := rand.IntN(len(s.owners))
	o := &s.owners[i]
	killed := time.Now()
	if err := o.process.Signal(unix.SIGKILL); err != nil {
		return err
	}
	e, err := s.outcome()
	if err != nil {
		return err
	}
	gone := s.since(e.Time)
	fmt.Fprintf(out, "{\"kill_ns\":%d,\"exit_event_ns\":%d,\"gone_ns\":%d,\"removal_ns\":%d}\n",
		s.since(killed), gone-e.AfterExit.Nanoseconds(), gone, e.Result.Took.Nanoseconds())
	if err := s.reap(o.pid); err != nil {
		return err
	}
	if err := s.spawn(i); err != nil {
		return err
	}
	if err := s.awaitReady(1); err != nil {
		return err
	}
	return s.claim(i)
}

// outcome waits for the next sock-file that is gone.
func (s *server) outcome() (watch.Event, error) {
	for e := range s.events.C() {
		if e.Kind != watch.KindOutcome {
			continue
		}
		if e.Result.Outcome != reap.OutcomeRemoved {
			return e, fmt.Errorf("%s is %s (%s): %w", e.Result.Path, e.Result.Outcome, e.Result.Reason, e.Result.Err)
		}
		return e, nil
	}
	return watch.Event{}, watch.ErrClosed
}

func (s *server) killAll() (burst, error) {
	b := burst{Kill: s.since(time.Now())}
	for i := range s.owners {
		if err := s.owners[i].process.Signal(unix.SIGKILL); err != nil {
			return b, err
		}
	}
	b.Killed = s.since(time.Now())
	for range s.owners {
		e, err := s.outcome()
		if err != nil {
			return b, err
		}
		b.Gone = max(b.Gone, s.since(e.Time))
	}
	for i := range s.owners {
		if err := s.reap(s.owners[i].pid); err != nil {
			return b, err
		}
	}
	return b, nil
}

func (s *server) reap(pid int) error {
	p, err := os.FindProcess(pid)
	if err != nil {
		return err
	}
	_, err = p.Wait()
	return err
}
