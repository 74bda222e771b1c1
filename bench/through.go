package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"syscall"
	"time"
)

// registeredWith are the numbers of processes that are registered with a daemon, which takes no more than 4,096 from a user who is
// not root.
func registeredWith() []int {
	if os.Geteuid() == 0 {
		return []int{1, 5000}
	}
	return []int{1, 4000}
}

// otherUsers register processes with root's daemon: two, for one may have no more than 4,096. They need no entry in the user database.
var otherUsers = []uint32{60001, 60002}

const (
	idleFor    = 10 * time.Second
	idleSettle = 10 * time.Second // until the Go runtime has given back what it does not need
)

// through is what was measured of the daemon.
type through struct {
	deaths     []throughRounds
	registered []registering
	none, most idle  // with nobody registered, and with the most
	heap       int64 // of package watch, in bytes for each of the most
}

// throughRounds are the turns of all sides with one number of processes: by side, then by round.
type throughRounds struct {
	registered int
	turns      [][][]death
}

// The sides: package watch, the daemon for its own user, and for other users, which is for root alone.
const (
	byLibrary = iota
	byDaemon
	byDaemonForOthers
)

// registering is once that the most processes were registered over so many connections.
type registering struct {
	connections int // 0: by package watch
	took        time.Duration
	kernel      int64 // by how many bytes the kernel's slabs have grown
}

// idle is a daemon with nothing to do.
type idle struct {
	memory  memory
	wakeUps int64
}

// throughSide is a side at work.
type throughSide struct {
	*side
	daemon  *daemonProcess // nil is package watch
	ballast []*side        // what else is registered with the daemon
}

func (s *throughSide) end() error {
	var err error
	for _, each := range append(s.ballast, s.side) {
		if each != nil {
			err = errors.Join(err, each.end())
		}
	}
	if s.daemon != nil {
		err = errors.Join(err, s.daemon.end())
	}
	return err
}

// throughBench is what it takes to start a side.
type throughBench struct {
	program, floor string
	dir            string // sock-files are below it
	state          string // and runtime directories below this
	sides          []*throughSide
}

func throughDaemon(ctx context.Context, p plan, dir string) (*record, error) {
	floor, err := compile(ctx, "floor", dir)
	if err != nil {
		return nil, err
	}
	m, err := measureDaemon(ctx, p, floor, dir)
	if err != nil {
		return nil, err
	}
	return m.record(), nil
}

// measureDaemon kills owners one at a time that package watch watches and that the daemon does. As in measureDeaths, all are there all the
// while.
func measureDaemon(ctx context.Context, p plan, floor, dir string) (m through, err error) {
	b := &throughBench{floor: floor, dir: dir}
	if b.program, err = buildSockwatch(ctx, dir); err != nil {
		return m, err
	}
	if b.state, err = os.MkdirTemp("/dev/shm", "bench"); err != nil { // a tmpfs, as /run is
		return m, err
	}
	defer os.RemoveAll(b.state)
	for _, d := range []string{b.dir, b.state} {
		if err := os.Chmod(d, 0o711); err != nil { // for the other users
			return m, err
		}
	}
	defer func() {
		for _, s := range b.sides {
			err = errors.Join(err, s.end())
		}
	}()
	perNumber := byDaemon + 1
	if os.Geteuid() == 0 {
		perNumber = byDaemonForOthers + 1
	}
	for _, n := range registeredWith() {
		fmt.Fprintf(os.Stderr, "starting %d x %d owners\n", perNumber, n)
		for which := range perNumber {
			if err := b.start(ctx, which, n, &m); err != nil {
				return m, err
			}
		}
		m.deaths = append(m.deaths, throughRounds{n, make([][][]death, perNumber)})
	}
	fmt.Fprintf(os.Stderr, "killing %d x %d one at a time\n", len(b.sides), p.samples*p.rounds)
	for round := range p.rounds + 1 {
		for i := range b.sides {
			number, which := i/perNumber, (i+round)%perNumber // who is first changes
			killed, err := b.sides[number*perNumber+which].kill(p.samples)
			if err != nil {
				return m, err
			}
			if round > 0 { // the first one warms up
				turns := m.deaths[number].turns
				turns[which] = append(turns[which], killed)
			}
		}
	}
	most := b.sides[len(b.sides)-perNumber:]
	if m.most, err = measureIdle(ctx, most[byDaemon].daemon); err != nil {
		return m, err
	}
	m.registered, err = registerAgain(most[byLibrary], most[byDaemon], p.bursts)
	return m, err
}

// start starts a side with n owners.
func (b *throughBench) start(ctx context.Context, which, n int, m *through) (err error) {
	s := &throughSide{}
	b.sides = append(b.sides, s)
	if which == byLibrary {
		if s.side, err = b.startOwners(ctx, n, nil, 0); err == nil {
			m.heap = s.heap // of the most in the end
		}
		return err
	}
	if s.daemon, err = startDaemon(ctx, b.program, b.state, ""); err != nil {
		return err
	}
	if which == byDaemon {
		if n == slices.Max(registeredWith()) {
			if m.none, err = measureIdle(ctx, s.daemon); err != nil {
				return err
			}
		}
		s.side, err = b.startOwners(ctx, n, s.daemon, uint32(os.Geteuid()))
		return err
	}
	for _, user := range otherUsers[:min(n, len(otherUsers))] {
		s.ballast = append(s.ballast, s.side)
		if s.side, err = b.startOwners(ctx, max(1, n/len(otherUsers)), s.daemon, user); err != nil {
			return err
		}
	}
	return nil
}

// startOwners starts n owners of a user, watched by a daemon, or without one by package watch.
func (b *throughBench) startOwners(ctx context.Context, n int, d *daemonProcess, user uint32) (*side, error) {
	sub, err := os.MkdirTemp(b.dir, "t")
	if err != nil {
		return nil, err
	}
	count := strconv.Itoa(n)
	if d == nil {
		return start(ctx, []string{"/proc/self/exe", outside, count, sub, b.floor})
	}
	argv := []string{"/proc/self/exe", "client", count, sub, b.floor, d.control()}
	if user == uint32(os.Geteuid()) {
		return start(ctx, argv)
	}
	if err := os.Chown(sub, int(user), int(user)); err != nil {
		return nil, err
	}
	return startAs(ctx, argv, &syscall.Credential{Uid: user, Gid: user})
}

func measureIdle(ctx context.Context, d *daemonProcess) (i idle, err error) {
	fmt.Fprintf(os.Stderr, "leaving the daemon alone for %s\n", idleSettle+idleFor)
	if err := wait(ctx, idleSettle); err != nil {
		return i, err
	}
	if i.wakeUps, err = d.wakeUps(ctx, idleFor); err != nil {
		return i, err
	}
	i.memory, err = d.memory()
	return i, err
}

// registerAgain registers all anew, by package watch and over one and several connections, which take turns.
func registerAgain(library, daemon *throughSide, times int) ([]registering, error) {
	fmt.Fprintf(os.Stderr, "registering all %d x again\n", 3*times)
	var all []registering
	for range times {
		for _, c := range []int{0, 1, connections} {
			s := daemon
			if c == 0 {
				s = library
			}
			r, err := registerOnce(s, daemon.daemon, c)
			if err != nil {
				return nil, err
			}
			all = append(all, r)
		}
	}
	return all, nil
}

func registerOnce(s *throughSide, d *daemonProcess, c int) (r registering, err error) {
	if _, err := s.drop(); err != nil {
		return r, err
	}
	before, err := d.memory()
	if err != nil {
		return r, err
	}
	if r.took, err = s.add(max(c, 1)); err != nil {
		return r, err
	}
	after, err := d.memory()
	r.connections, r.kernel = c, after.kernel-before.kernel
	return r, err
}
