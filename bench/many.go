package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
)

// watched are the numbers of owners. 9,000 are as many as floor.c has room for, and the two that are compared need 18,000 processes.
var watched = []int{1, 10, 100, 1000, 5000, 9000}

const (
	// inBurst is how many owners are killed at once.
	inBurst = 5000
	// strangersWatched is how many processes are watched that are no children of the watcher.
	strangersWatched = 1000
	// daemonLimit is how many a user who is not root may register with a daemon.
	daemonLimit = 4096
)

// contender is what is compared with the floor.
type contender struct {
	name string
	mode string // of this program, see serve
}

var (
	byWatch     = contender{"package watch", "watch"}
	byStrangers = contender{"package watch, of no children of its own", "strangers"}
	byClient    = contender{"daemon", "client"}
)

// rounds are the turns that both programs took with one number of owners: element i of the one came right before or
// right after element i of the other.
type rounds struct {
	by               contender
	watched          int
	floor, sockwatch [][]death
}

// many is what was measured of many owners.
type many struct {
	plan         plan
	deaths       []rounds
	heapPerOwner int64
	bursts       []pair
	leftOut      []string
}

type manyBench struct {
	floor, sockwatch string // the programs
	dir, state       string
	number           int // of the directories so far
}

func ofMany(ctx context.Context, p plan, dir string) (*record, error) {
	state, err := os.MkdirTemp("/dev/shm", "bench") // a tmpfs, as /run is
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(state)
	b := &manyBench{dir: dir, state: state}
	if b.floor, err = compile(ctx, "floor", dir); err != nil {
		return nil, err
	}
	if b.sockwatch, err = buildSockwatch(ctx, dir); err != nil {
		return nil, err
	}
	m := &many{plan: p}
	for _, n := range p.watched {
		contenders := []contender{byWatch, byClient}
		if n == strangersWatched {
			contenders = append(contenders, byStrangers)
		}
		for _, by := range contenders {
			if by == byClient && n > daemonLimit && os.Geteuid() != 0 {
				m.leftOut = append(m.leftOut, fmt.Sprintf("the daemon with %d processes: a user who is not root may register %d", n, daemonLimit))
				continue
			}
			measured, heap, err := b.deaths(ctx, p, by, n)
			if err != nil {
				return nil, fmt.Errorf("%s, %d owners: %w", by.name, n, err)
			}
			m.deaths = append(m.deaths, measured)
			if by == byWatch {
				m.heapPerOwner = heap // of the most that are watched in the end
			}
		}
	}
	for i := range p.bursts {
		for _, by := range []contender{byWatch, byClient} {
			if by == byClient && os.Geteuid() != 0 {
				continue // it may not register so many
			}
			burst, err := b.burst(ctx, by, i, p.inBurst)
			if err != nil {
				return nil, fmt.Errorf("%s, %d at once: %w", by.name, p.inBurst, err)
			}
			m.bursts = append(m.bursts, burst)
		}
	}
	return m.record(), nil
}

// deaths has owners killed one at a time. Both programs are there all the while and take turns.
func (b *manyBench) deaths(ctx context.Context, p plan, by contender, n int) (m rounds, heap int64, err error) {
	fmt.Fprintf(os.Stderr, "%s: killing 2 x %d of 2 x %d one at a time\n", by.name, p.samples*p.rounds, n)
	m = rounds{by: by, watched: n}
	c, err := b.start(ctx, contender{mode: "watch"}, b.floor, n)
	if err != nil {
		return m, 0, err
	}
	defer func() { err = errors.Join(err, c.end()) }()
	sw, err := b.start(ctx, by, "", n)
	if err != nil {
		return m, 0, err
	}
	defer func() { err = errors.Join(err, sw.end()) }()
	for round := range p.rounds + 1 {
		killed, err := takeTurns(round, p.samples, c.side, sw.side)
		if err != nil {
			return m, 0, err
		}
		if round > 0 { // the first one warms up
			m.floor, m.sockwatch = append(m.floor, killed[0]), append(m.sockwatch, killed[1])
		}
	}
	return m, sw.heap, nil
}

// start starts the floor, or a contender, with n owners in a directory of its own.
func (b *manyBench) start(ctx context.Context, by contender, floor string, n int) (s *throughSide, err error) {
	b.number++
	sub := filepath.Join(b.dir, fmt.Sprintf("m%d", b.number))
	if err := os.Mkdir(sub, 0o700); err != nil {
		return nil, err
	}
	s = &throughSide{}
	argv := []string{floor, by.mode, strconv.Itoa(n), sub}
	if floor == "" {
		argv = []string{"/proc/self/exe", by.mode, strconv.Itoa(n), sub, b.floor}
	}
	if by.mode == byClient.mode || by.mode == clientBurst {
		if s.daemon, err = startDaemon(ctx, b.sockwatch, b.state, ""); err != nil {
			return nil, err
		}
		argv = append(argv, s.daemon.control())
	}
	if s.side, err = start(ctx, argv); err != nil && s.daemon != nil {
		err = errors.Join(err, s.daemon.end())
	}
	return s, err
}

// takeTurns has each side kill n. Who is first changes with the round.
func takeTurns(round, n int, sides ...*side) (killed [2][]death, err error) {
	for turn := range killed {
		i := (turn + round) % len(killed)
		if killed[i], err = sides[i].kill(n); err != nil {
			return killed, err
		}
	}
	return killed, nil
}

// pair is one burst of the floor and the one of sockwatch beside it.
type pair struct {
	by               contender
	floor, sockwatch burst
}

// burst has as many owners killed at once, by the floor and by a contender. Who is first changes with the round.
func (b *manyBench) burst(ctx context.Context, by contender, round, n int) (m pair, err error) {
	fmt.Fprintf(os.Stderr, "%s: killing 2 x %d at once\n", by.name, n)
	m.by = by
	mode := "burst"
	if by == byClient {
		mode = clientBurst
	}
	for turn := range 2 {
		program, result := b.floor, &m.floor
		of := contender{mode: "burst"}
		if (turn+round)%2 == 1 {
			program, result, of = "", &m.sockwatch, contender{mode: mode}
		}
		s, err := b.start(ctx, of, program, n)
		if err != nil {
			return m, err
		}
		if err := errors.Join(s.out.Decode(result), s.end()); err != nil {
			return m, err
		}
	}
	return m, nil
}
