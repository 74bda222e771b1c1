package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// loopKind is what loop.c does in one of its loops.
type loopKind struct {
	name  string
	calls int // in each sample: a fraction of a millisecond of system calls
	binds bool
}

// The first bind of a paced loop comes when who looks on has settled, so it is before the other.
var loopKinds = [...]loopKind{
	{name: "getppid", calls: 2000},
	{name: "paced", calls: 5, binds: true},
	{name: "bind", calls: 30, binds: true},
}

const (
	loopSamples = 20 // in each turn
	// workedFor is how many binds of a kind are made to see what they cost who traces.
	workedFor = 300
)

// tracing is what was measured of tracing.
type tracing struct {
	tracers []tracerTurns
	leftOut []string // tracers, and why
}

// tracerTurns are the turns with one tracer, each beside one without.
type tracerTurns struct {
	tracer
	loops       [len(loopKinds)]beside // nanoseconds for each call
	works       [len(loopKinds)][]work // for workedFor binds
	starts      []float64              // nanoseconds until it was ready
	bound, told int                    // binds
	disturbed   int                    // turns that were not counted: somebody else traced
	failed      bool
}

// oneTurn is what came out of one, with a tracer or without.
type oneTurn struct {
	took  [len(loopKinds)][]float64
	works [len(loopKinds)]work
	start time.Duration
	told  int
}

type tracingBench struct {
	sockwatch, loop string
	path            string // the loop's sock-file
	output          string // where tracers tell
}

// whileTraced runs loop.c with each tracer and with none.
func whileTraced(ctx context.Context, p plan, dir string) (*record, error) {
	if os.Geteuid() != 0 {
		return &record{LeftOut: []string{"what tracing costs: it needs root"}}, nil
	}
	state, err := os.MkdirTemp("/dev/shm", "bench") // a tmpfs, as /run is
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(state)
	b := &tracingBench{path: filepath.Join(state, "loop.sock"), output: filepath.Join(state, "output")}
	if b.loop, err = compile(ctx, "loop", dir); err != nil {
		return nil, err
	}
	if b.sockwatch, err = buildSockwatch(ctx, dir); err != nil {
		return nil, err
	}
	tracers, leftOut, err := b.findTracers()
	if err != nil {
		return nil, err
	}
	m := &tracing{leftOut: leftOut}
	for _, t := range tracers {
		m.tracers = append(m.tracers, tracerTurns{tracer: t})
	}
	fmt.Fprintf(os.Stderr, "tracing in %d ways, %d x\n", len(tracers), p.rounds+1)
	for round := range 3 * p.rounds {
		counted, err := b.round(ctx, m, round, p.rounds)
		if err != nil {
			return nil, err
		}
		if counted == 0 { // all have been, or somebody else traces all the time
			break
		}
	}
	return m.record(), nil
}

// round has each tracer take a turn that has not taken enough, and tells how many turns counted. The first round warms up.
func (b *tracingBench) round(ctx context.Context, m *tracing, round, enough int) (counted int, err error) {
	for i := range m.tracers {
		t := &m.tracers[i]
		if t.failed || len(t.starts) == enough {
			continue
		}
		alone, both, err := b.bothTurns(ctx, &t.tracer, round)
		switch {
		case ctx.Err() != nil:
			return counted, ctx.Err()
		case err != nil: // it does not work here, whatever it is
			t.failed = true
			m.leftOut = append(m.leftOut, fmt.Sprintf("%s: %s", t.name, err))
			continue
		case !alone:
			t.disturbed++
			continue
		}
		counted++
		if round > 0 {
			t.add(both[0], both[1])
		}
	}
	return counted, nil
}

func (t *tracerTurns) add(without, with oneTurn) {
	for i, k := range loopKinds {
		l := &t.loops[i]
		l.base, l.other = append(l.base, without.took[i]), append(l.other, with.took[i])
		t.works[i] = append(t.works[i], with.works[i])
		if k.binds {
			t.bound += k.calls*(loopSamples+1) + workedFor
		}
	}
	t.starts = append(t.starts, float64(with.start))
	t.told += with.told
}

// bothTurns has the loop take a turn without a tracer and one with it. Which is first changes with the round. Alone says that nobody
// else was seen to trace: then the other turn would be with a tracer, too.
func (b *tracingBench) bothTurns(ctx context.Context, t *tracer, round int) (alone bool, both [2]oneTurn, err error) {
	tracers := [len(both)]*tracer{nil, t}
	alone, err = nobodyTraces(ctx)
	for half := range both {
		if err != nil {
			return false, both, err
		}
		which := (half + round) % len(both)
		if both[which], err = b.turn(ctx, tracers[which]); err != nil {
			return false, both, err
		}
		var still bool
		still, err = nobodyTraces(ctx)
		alone = alone && still
	}
	return alone, both, err
}

// turn times the loops while somebody traces, or nobody, nil, and then what it costs who traces.
func (b *tracingBench) turn(ctx context.Context, t *tracer) (o oneTurn, err error) {
	r, err := b.begin(ctx, t)
	if err != nil {
		return o, err
	}
	o.start = r.start
	if o.took, err = r.time(ctx); err == nil && t != nil {
		o.works, err = r.costs(ctx)
	}
	if err = errors.Join(err, r.end(t)); err != nil || t == nil || t.tells == "" {
		return o, err
	}
	o.told, err = b.told(t)
	return o, err
}

// time gives the nanoseconds of a call in each sample of each loop, after one that does not count.
func (r *traced) time(ctx context.Context) (took [len(loopKinds)][]float64, err error) {
	for i, k := range loopKinds {
		for sample := range loopSamples + 1 {
			t, err := r.loop.timed(fmt.Sprintf("%s %d", k.name, k.calls))
			if err != nil {
				return took, err
			}
			if sample > 0 {
				took[i] = append(took[i], float64(t.Nanoseconds())/float64(k.calls))
			}
		}
		if err := r.settle(ctx); err != nil {
			return took, err
		}
	}
	return took, nil
}

// costs is what workedFor binds of each kind cost who traces.
func (r *traced) costs(ctx context.Context) (works [len(loopKinds)]work, err error) {
	// The kernel's looking at the clock is in what it tells.
	stats, err := ebpf.EnableStats(unix.BPF_STATS_RUN_TIME)
	if err != nil {
		return works, fmt.Errorf("have the kernel count what BPF programs take: %w", err)
	}
	defer stats.Close()
	for i, k := range loopKinds {
		if !k.binds {
			continue
		}
		before, err := workOf(r.tracer.Process.Pid)
		if err != nil {
			return works, err
		}
		if _, err := r.loop.timed(fmt.Sprintf("%s %d", k.name, workedFor)); err != nil {
			return works, err
		}
		if err := r.settle(ctx); err != nil {
			return works, err
		}
		after, err := workOf(r.tracer.Process.Pid)
		if err != nil {
			return works, err
		}
		works[i] = after.since(before)
	}
	return works, nil
}

// nobodyTraces waits until there are no BPF programs in the kernel that may be at system calls. Those of who traced last go a little later
// than their process. False is that others stay.
func nobodyTraces(ctx context.Context) (bool, error) {
	const (
		look    = 50 * time.Millisecond
		patient = 20
	)
	for range patient {
		if there, err := somebodyTraces(); err != nil || !there {
			return true, err
		}
		if err := wait(ctx, look); err != nil {
			return false, err
		}
	}
	return false, nil
}

func somebodyTraces() (bool, error) {
	for id := ebpf.ProgramID(0); ; {
		var err error
		if id, err = ebpf.ProgramGetNextID(id); errors.Is(err, os.ErrNotExist) {
			return false, nil
		} else if err != nil {
			return false, err
		}
		p, err := ebpf.NewProgramFromID(id)
		if errors.Is(err, os.ErrNotExist) { // it was unloaded meanwhile
			continue
		} else if err != nil {
			return false, err
		}
		kind := p.Type()
		if err := p.Close(); err != nil {
			return false, err
		}
		switch kind {
		case ebpf.TracePoint, ebpf.RawTracepoint, ebpf.RawTracepointWritable, ebpf.Tracing, ebpf.Kprobe:
			return true, nil
		}
	}
}
