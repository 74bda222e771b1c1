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
	nursery       *side    // nil: they are children of this process
	killer        *killer  // nil: this process kills them

	owners  []served
	started time.Time
}

const (
	// clientBurst is the mode in which all are killed at once that the daemon has registered.
	clientBurst = "client-burst"
	// outside is the mode in which package watch has to do with its owners no more than a daemon has: other processes start and kill them.
	outside = "outside"
)

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

// serve is the program's other half: `bench watch|outside|strangers|burst|client|client-burst N DIR FLOOR [CONTROL]`.
func serve(args []string) (err error) {
	mode, dir, floor, control := args[0], args[2], args[3], args[4:]
	n, err := strconv.Atoi(args[1])
	if err != nil {
		return err
	}
	// Without the monotonic clock, which the daemon's times have not.
	s := &server{floor: floor, dir: dir, owners: make([]served, n), started: wall()}
	if len(control) > 0 {
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
	if mode == "strangers" || mode == outside {
		if err := s.openNursery(); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, s.nursery.end()) }()
	}
	if mode == outside || mode == "client" {
		if s.killer, err = startKiller(); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, s.killer.end()) }()
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
	var b burst
	switch mode {
	case "client": // how the daemon copes with all at once is not asked for here
		return errors.Join(s.obey(out), s.endAll())
	case clientBurst:
		b, err = s.killAllAndLook()
	case "burst":
		b, err = s.killAll()
	default:
		if err := s.obey(out); err != nil {
			return err
		}
		_, err = s.killAll()
		return err
	}
	fmt.Fprintf(out, "{\"kill_ns\":%d,\"killed_ns\":%d,\"gone_ns\":%d}\n", b.Kill, b.Killed, b.Gone)
	return errors.Join(err, out.Flush())
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
	var pid int
	var err error
	if s.nursery != nil {
		pid, err = s.nursery.spawn(path)
	} else {
		pid, err = spawnChild(s.floor, path, s.stay, s.readyW)
	}
	s.owners[i] = served{pid: pid}
	return err
}

func spawnChild(floor, path string, stay, ready *os.File) (int, error) {
	pid, err := syscall.ForkExec(floor, []string{"floor", "child", path}, &syscall.ProcAttr{
		Env:   os.Environ(),
		Files: []uintptr{stay.Fd(), ready.Fd(), 2},
	})
	return pid, os.NewSyscallError("fork", err)
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

// quiet is how long nothing happens before a kill: who watches has gone to sleep, and what the starting of processes left in
// the processor's caches weighs no more on the one side than on the other. The floor has it, too.
const quiet = 5 * time.Millisecond

// sample kills one owner and starts another in its place.
func (s *server) sample(out *bufio.Writer) error {
	i := rand.IntN(len(s.owners))
	o := &s.owners[i]
	time.Sleep(quiet) //nolint:forbidigo // nothing is to happen, so there is no event to wait for
	killed, err := s.kill(o.pid)
	if err != nil {
		return err
	}
	e, err := s.w.outcome()
	if err != nil {
		return err
	}
	if s.killer != nil {
		if killed, err = s.killer.killed(); err != nil {
			return err
		}
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

// kill kills an owner, or has it killed: when that is, the killer knows. Nobody has reaped it: the number is still its own.
func (s *server) kill(pid int) (at time.Time, err error) {
	if s.killer != nil {
		return at, s.killer.kill(pid)
	}
	at = wall()
	return at, unix.Kill(pid, unix.SIGKILL)
}

func (s *server) killAll() (burst, error) {
	b, err := s.sendKills()
	if err != nil {
		return b, err
	}
	for range s.owners {
		e, err := s.w.outcome()
		if err != nil {
			return b, err
		}
		b.Gone = max(b.Gone, s.since(e.gone))
	}
	return b, s.reapAll()
}

// killAllAndLook is killAll for who may leave out Events that come so fast: the files are seen to go.
func (s *server) killAllAndLook() (b burst, err error) {
	d, err := seeDeletions(s.dir)
	if err != nil {
		return b, err
	}
	defer d.close()
	if b, err = s.sendKills(); err != nil {
		return b, err
	}
	gone, err := d.await(len(s.owners), gonePatience)
	if err != nil {
		return b, err
	}
	b.Gone = s.since(gone.Round(0))
	return b, s.reapAll()
}

func (s *server) sendKills() (b burst, err error) {
	b.Kill = s.since(wall())
	for i := range s.owners {
		if err := unix.Kill(s.owners[i].pid, unix.SIGKILL); err != nil {
			return b, err
		}
	}
	b.Killed = s.since(wall())
	return b, nil
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
	if s.nursery != nil {
		return s.nursery.reap(pid)
	}
	return reapChild(pid)
}

func reapChild(pid int) error {
	p, err := os.FindProcess(pid)
	if err != nil {
		return err
	}
	_, err = p.Wait()
	return err
}
