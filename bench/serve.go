package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// server is sockwatch's side: what `floor watch` and `floor burst` do, done by package watch as any program would use
// it, or by the daemon. The children are the floor's own (`floor child`), so that the kernel has the same to tear down.
type server struct {
	floor, dir string

	w watcher

	ready, readyW *os.File // children write a byte each when they listen
	stay, stayW   *os.File // the children's stdin: its end is the end of them

	owners  []served
	started time.Time
}

// served is one owner.
type served struct {
	pid  int
	path string
}

// watcher is what has the owners watched.
type watcher interface {
	// add watches owner i, a process with one sock-file. Of several connections it is asked on that one, each by one goroutine at a time.
	add(connection, i, pid int, path string) error
	// added is told that n were added: outcome is for what comes after that.
	added(n int) error
	// drop ends the watching of owner i.
	drop(i int) error
	// outcome waits for the next sock-file that is gone.
	outcome() (outcome, error)
	close() error
}

// outcome is that of an owner's one claim.
type outcome struct {
	gone      time.Time
	afterExit time.Duration
	took      time.Duration // the removal alone; 0 where it is not told
}

// serve is the program's other half: `bench watch|burst|client N DIR FLOOR [CONTROL]`.
func serve(mode, count, dir, floor string, control ...string) (err error) {
	n, err := strconv.Atoi(count)
	if err != nil {
		return err
	}
	// Without the monotonic clock, which the daemon's times have not.
	s := &server{floor: floor, dir: dir, owners: make([]served, n), started: wall()}
	if mode == "client" {
		s.w, err = newRemote(control[0], n)
	} else {
		s.w, err = newLibrary(n)
	}
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.w.close()) }()
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
	before := heapInUse()
	if err := s.claimAll(1); err != nil {
		return err
	}
	heap := heapInUse() - before
	out := bufio.NewWriter(os.Stdout)
	fmt.Fprintf(out, "{\"watched\":%d,\"heap_per_owner\":%d}\n", n, heap/int64(n))
	if err := out.Flush(); err != nil {
		return err
	}
	if mode != "burst" {
		if err := s.obey(out); err != nil {
			return err
		}
	}
	if mode == "client" { // how the daemon copes with all at once is not asked for here
		return s.endAll()
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

// obey does what the lines on stdin say: a number of samples to take, "drop": to end the watching of all, "add C": to watch all
// again, over C connections.
func (s *server) obey(out *bufio.Writer) error {
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		word, number, _ := strings.Cut(lines.Text(), " ")
		start := time.Now()
		var err error
		switch word {
		case "drop":
			err = s.dropAll()
		case "add":
			var connections int
			if connections, err = strconv.Atoi(number); err == nil {
				err = s.claimAll(connections)
			}
		default:
			err = s.samples(word, out)
		}
		if word == "drop" || word == "add" {
			fmt.Fprintf(out, "{\"took_ns\":%d}\n", time.Since(start).Nanoseconds())
		}
		if err = errors.Join(err, out.Flush()); err != nil {
			return err
		}
	}
	return nil
}

func (s *server) samples(count string, out *bufio.Writer) error {
	n, err := strconv.Atoi(count)
	for ; n > 0 && err == nil; n-- {
		err = s.sample(out)
	}
	return err
}

// wall is the time without the monotonic clock's.
func wall() time.Time { return time.Now().Round(0) }

// since is a time as it is printed.
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

// claimAll watches all owners.
func (s *server) claimAll(connections int) error {
	errs := make([]error, connections)
	var all sync.WaitGroup
	for c := range connections {
		all.Go(func() {
			for i := c; i < len(s.owners) && errs[c] == nil; i += connections {
				errs[c] = s.claim(c, i)
			}
		})
	}
	all.Wait()
	return errors.Join(append(errs, s.w.added(len(s.owners)))...)
}

// dropAll ends the watching of all.
func (s *server) dropAll() error {
	for i := range s.owners {
		if err := s.w.drop(i); err != nil {
			return err
		}
	}
	return nil
}

func heapInUse() int64 {
	runtime.GC()
	runtime.GC() // what the first one has finalized
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// claim watches an owner with its one sock-file.
func (s *server) claim(connection, i int) error {
	o := &s.owners[i]
	o.path = filepath.Join(s.dir, strconv.Itoa(i)+".sock")
	return s.w.add(connection, i, o.pid, o.path)
}

// sample kills one owner and starts another in its place.
func (s *server) sample(out *bufio.Writer) error {
	i := rand.IntN(len(s.owners))
	o := &s.owners[i]
	killed := wall()
	if err := unix.Kill(o.pid, unix.SIGKILL); err != nil { // our child, and not reaped: the number is still its own
		return err
	}
	e, err := s.w.outcome()
	if err != nil {
		return err
	}
	gone := s.since(e.gone)
	fmt.Fprintf(out, "{\"kill_ns\":%d,\"exit_event_ns\":%d,\"gone_ns\":%d,\"removal_ns\":%d}\n",
		s.since(killed), gone-e.afterExit.Nanoseconds(), gone, e.took.Nanoseconds())
	if err := s.reap(o.pid); err != nil {
		return err
	}
	if err := s.spawn(i); err != nil {
		return err
	}
	if err := s.awaitReady(1); err != nil {
		return err
	}
	return s.claim(0, i)
}

func (s *server) killAll() (burst, error) {
	b := burst{Kill: s.since(wall())}
	for i := range s.owners {
		if err := unix.Kill(s.owners[i].pid, unix.SIGKILL); err != nil {
			return b, err
		}
	}
	b.Killed = s.since(wall())
	for range s.owners {
		e, err := s.w.outcome()
		if err != nil {
			return b, err
		}
		b.Gone = max(b.Gone, s.since(e.gone))
	}
	return b, s.reapAll()
}

// endAll has all owners end by themselves: each removes its own sock-file.
func (s *server) endAll() error {
	if err := s.stayW.Close(); err != nil {
		return err
	}
	return s.reapAll()
}

func (s *server) reapAll() error {
	for i := range s.owners {
		if err := s.reap(s.owners[i].pid); err != nil {
			return err
		}
	}
	return nil
}

func (s *server) reap(pid int) error {
	p, err := os.FindProcess(pid)
	if err != nil {
		return err
	}
	_, err = p.Wait()
	return err
}
