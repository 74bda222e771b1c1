package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// watched are the numbers of owners between which the times must not differ.
var watched = []int{1, 1000, 8000}

// inBurst is how many owners are killed at once.
const inBurst = 5000

// rounds are the turns that both programs took with one number of owners: element i of the one came right before or
// right after element i of the other.
type rounds struct {
	watched          int
	floor, sockwatch [][]death
}

// besideTheFloor is what was measured of package watch.
type besideTheFloor struct {
	deaths       []rounds
	heapPerOwner int64
	bursts       []pair
}

func besideFloor(ctx context.Context, p plan, dir string) (report, error) {
	floor, err := compile(ctx, "floor", dir)
	if err != nil {
		return nil, err
	}
	m := &besideTheFloor{}
	if m.deaths, m.heapPerOwner, err = measureDeaths(ctx, p, floor, dir); err != nil {
		return nil, err
	}
	m.bursts, err = measureBursts(ctx, p, floor, dir)
	return m, err
}

// measureDeaths kills owners one at a time. The programs with every number of owners are there all the while: then a
// difference between the numbers is not one between minutes.
func measureDeaths(ctx context.Context, p plan, floor, dir string) (measured []rounds, heapPerOwner int64, err error) {
	var sides []*side
	defer func() {
		for _, s := range sides {
			err = errors.Join(err, s.end())
		}
	}()
	for _, n := range watched {
		fmt.Fprintf(os.Stderr, "starting 2 x %d owners\n", n)
		both, err := startBoth(ctx, n, floor, dir)
		sides = append(sides, both...)
		if err != nil {
			return nil, 0, err
		}
		measured = append(measured, rounds{watched: n})
		heapPerOwner = both[1].heap // of the most that are watched in the end
	}
	fmt.Fprintf(os.Stderr, "killing 2 x %d one at a time\n", len(watched)*p.samples*p.rounds)
	for round := range p.rounds + 1 {
		for i := range measured {
			m, c, sw := &measured[i], sides[2*i], sides[2*i+1]
			killed, err := takeTurns(round, p.samples, c, sw)
			if err != nil {
				return nil, 0, err
			}
			if round > 0 { // the first one warms up
				m.floor, m.sockwatch = append(m.floor, killed[0]), append(m.sockwatch, killed[1])
			}
		}
	}
	return measured, heapPerOwner, nil
}

// startBoth starts the floor and sockwatch. It returns what it started on error, too.
func startBoth(ctx context.Context, n int, floor, dir string) (both []*side, err error) {
	for i, name := range []string{"c", "s"} {
		sub := filepath.Join(dir, fmt.Sprintf("%s%d", name, n))
		if err := os.Mkdir(sub, 0o700); err != nil {
			return both, err
		}
		c, sw := commands("watch", n, floor, sub)
		s, err := start(ctx, [][]string{c, sw}[i])
		if err != nil {
			return both, err
		}
		both = append(both, s)
	}
	return both, nil
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
type pair struct{ floor, sockwatch burst }

func measureBursts(ctx context.Context, p plan, floor, dir string) ([]pair, error) {
	pairs := make([]pair, p.bursts)
	for i := range pairs {
		fmt.Fprintf(os.Stderr, "killing 2 x %d at once\n", inBurst)
		for turn := range 2 {
			sub := filepath.Join(dir, fmt.Sprintf("b%d-%d", i, turn))
			if err := os.Mkdir(sub, 0o700); err != nil {
				return nil, err
			}
			argv, sockwatch := commands("burst", inBurst, floor, sub)
			result := &pairs[i].floor
			if (turn+i)%2 == 1 {
				argv, result = sockwatch, &pairs[i].sockwatch
			}
			s, err := start(ctx, argv)
			if err != nil {
				return nil, err
			}
			if err := errors.Join(s.out.Decode(result), s.end()); err != nil {
				return nil, fmt.Errorf("burst of %v: %w", argv, err)
			}
		}
	}
	return pairs, nil
}
