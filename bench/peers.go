package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"time"
)

// peer is a program, or the way in which one is used, by which a process's sock-file goes when the process has been killed.
type peer struct {
	name  string
	needs []string // other programs, by name or path
	root  bool     // needs root
	// period is how often it looks, if it does: the kill comes at a random moment of it.
	period time.Duration
	// slow peers take seconds: they have a tenth of the kills.
	slow  bool
	start func(ctx context.Context, s *stage) (guard, error)
}

// guard is a peer at work.
type guard interface {
	// begin has a server started, and returns when it listens and its end will be seen.
	begin() (pid int, err error)
	// process is who guards it.
	process() int
	// settle returns when all is over that comes after the end of a server.
	settle() error
	end() error
}

// look is how often it is looked whether something has come about.
const look = 5 * time.Millisecond

// peerDeaths is how long the sock-files took to go, in nanoseconds: by peer, then by turn.
type peerDeaths struct {
	peers   []peer
	turns   [][][]float64
	leftOut []string
}

type peersBench struct {
	peers  []peer
	stages []*stage
}

// besidePeers kills servers that are guarded by each peer in turn. Only one peer is there at a time, and what is measured is seen from
// outside, in the same way for all: from before the kill until inotify tells that the file is gone.
func besidePeers(ctx context.Context, p plan, dir string) (*record, error) {
	state, err := os.MkdirTemp("/dev/shm", "bench") // a tmpfs, as /run is
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(state)
	peers, leftOut, err := findPeers(ctx, dir)
	if err != nil {
		return nil, err
	}
	server, err := compile(ctx, "server", dir)
	if err != nil {
		return nil, err
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	m := &peerDeaths{peers: peers, turns: make([][][]float64, len(peers)), leftOut: leftOut}
	b := &peersBench{peers: peers}
	defer b.close()
	for i := range peers {
		s, err := newStage(server, dir, state, fmt.Sprintf("p%d", i))
		if err != nil {
			return nil, err
		}
		b.stages = append(b.stages, s)
	}
	rounds, kills := 2*p.rounds, max(1, p.samples/10)
	fmt.Fprintf(os.Stderr, "killing %d x %d servers\n", len(peers), rounds*kills)
	failed := make([]bool, len(peers))
	for round := range rounds {
		for turn := range peers {
			i := (turn + round) % len(peers) // who is first changes
			if failed[i] || peers[i].slow && round%2 > 0 {
				continue
			}
			some := kills
			if peers[i].slow {
				some = max(1, kills/5)
			}
			took, err := b.turn(ctx, i, some)
			switch {
			case ctx.Err() != nil:
				return nil, ctx.Err()
			case err != nil && i == 0: // the floor, with which all are compared
				return nil, err
			case err != nil: // it does not work here, whatever it is
				failed[i] = true
				m.leftOut = append(m.leftOut, fmt.Sprintf("%s: %s", peers[i].name, err))
				fmt.Fprintf(os.Stderr, "%s: %s\n", peers[i].name, err)
			default:
				m.turns[i] = append(m.turns[i], took)
			}
		}
	}
	for i := len(peers) - 1; i >= 0; i-- {
		if failed[i] {
			m.peers, m.turns = slices.Delete(m.peers, i, i+1), slices.Delete(m.turns, i, i+1)
		}
	}
	return m.record(), nil
}

// turn has a peer guard servers that are killed. The first one does not count.
func (b *peersBench) turn(ctx context.Context, i, kills int) (took []float64, err error) {
	s, p := b.stages[i], b.peers[i]
	g, err := p.start(ctx, s)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, s.clear(), g.end()) }()
	for kill := range kills + 1 {
		pid, err := g.begin()
		if err != nil {
			return nil, err
		}
		if err := awaitRest(ctx, g.process()); err != nil {
			return nil, err
		}
		if p.period > 0 {
			if err := wait(ctx, rand.N(p.period)); err != nil {
				return nil, err
			}
		}
		t, err := s.kill(pid)
		if err = errors.Join(err, s.clear()); err != nil {
			return nil, err
		}
		if err := g.settle(); err != nil {
			return nil, err
		}
		if kill > 0 {
			took = append(took, float64(t.Nanoseconds()))
		}
	}
	return took, nil
}

func (b *peersBench) close() {
	for _, s := range b.stages {
		_ = s.close()
	}
}

func (m *peerDeaths) record() *record {
	t := table{Name: "gone", Columns: []string{
		"kill -9 -> file gone", "p50 / floor", "p90 / floor", "p99 / floor", "p50", "p90", "p99", "kills",
	}}
	shares := picture{
		Name: "peers", Kind: sharesPicture, Title: "From kill -9 until the sock-file is gone", X: "time since the kill, logarithmic",
		Y: "share of the files that are gone",
	}
	floor := slices.Concat(m.turns[0]...)
	for i, p := range m.peers {
		all := slices.Concat(m.turns[i]...)
		row := []string{p.name}
		for _, q := range []float64{0.5, 0.9, 0.99} {
			row = append(row, ratio(quantile(all, q)/quantile(floor, q)))
		}
		for _, q := range []float64{0.5, 0.9, 0.99} {
			row = append(row, duration(quantile(all, q)))
		}
		t.Rows = append(t.Rows, append(row, fmt.Sprint(len(all))))
		shares.Series = append(shares.Series, shareSeries(p.name, all, 1e3))
	}
	return &record{Tables: []table{t}, Pictures: []picture{shares}, LeftOut: m.leftOut}
}

// serverDir is the directory of a stage's sock-file.
func (s *stage) serverDir() string { return filepath.Dir(s.path) }
