package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"time"

	"github.com/sockwatch/sockwatch/client"
	"github.com/sockwatch/sockwatch/notify"
)

// The targets of starts and of the program.
const (
	targetHelp   = 15 * time.Millisecond
	targetRun    = 3 * time.Millisecond
	targetBinary = 15_000_000 // bytes
)

// startup is a command that is timed from its start to its end, in nanoseconds.
type startup struct {
	name          string
	argv          []string
	before, after []string // other commands, which are not timed
	env           string   // one more variable
	took          []float64
}

// startups is how long commands take that have next to nothing to do.
type startups struct {
	commands []*startup
	ready    []float64 // of a daemon, until it serves
	run      starts
	size     int64 // of the program, in bytes
}

// The first two are what the others are compared with.
const (
	startTrue = iota
	startRunTrue
	startHelp
)

func startingUp(ctx context.Context, p plan, dir string) (_ *record, err error) {
	program, err := buildSockwatch(ctx, dir)
	if err != nil {
		return nil, err
	}
	floor, err := compile(ctx, "floor", dir)
	if err != nil {
		return nil, err
	}
	info, err := os.Stat(program)
	if err != nil {
		return nil, err
	}
	empty, err := os.MkdirTemp(dir, "empty")
	if err != nil {
		return nil, err
	}
	state, err := os.MkdirTemp("/dev/shm", "bench") // a tmpfs, as /run is
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(state)
	d, err := startDaemon(ctx, program, state, "")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, d.end()) }()
	reports := notify.Variable + "=" + filepath.Join(d.dir, "notify")
	pid := strconv.Itoa(os.Getpid())
	ofDaemon := func(command string, args ...string) []string {
		return append([]string{program, command, "--runtime-dir", d.dir}, args...)
	}
	m := &startups{size: info.Size(), commands: []*startup{
		startTrue:    {name: "`true`", argv: []string{"true"}},
		startRunTrue: {name: "`sockwatch run -- true`", argv: []string{program, "run", "--", "true"}},
		startHelp:    {name: "`sockwatch --help`", argv: []string{program, "--help"}},
		{name: "`sockwatch version`", argv: []string{program, "version"}},
		{name: "`sockwatch ls DIR`", argv: []string{program, "ls", empty}},
		{name: "`sockwatch reap DIR`", argv: []string{program, "reap", empty}},
		{name: "`sockwatch explain FILE`", argv: []string{program, "explain", filepath.Join(d.dir, "control")}},
		{name: "`sockwatch check --dir DIR -- true`", argv: []string{program, "check", "--dir", empty, "--", "true"}},
		{name: "`sockwatch config check FILE`", argv: []string{program, "config", "check", filepath.Join(d.dir, "config.toml")}},
		{name: "`sockwatch doctor DIR`", argv: []string{program, "doctor", empty}},
		{name: "`sockwatch notify BIND=FILE`", argv: []string{program, "notify", "BIND=" + filepath.Join(empty, "none")}, env: reports},
		{name: "`sockwatch status`", argv: ofDaemon("status")},
		{name: "`sockwatch events`", argv: ofDaemon("events")},
		{name: "`sockwatch watch PID`", argv: ofDaemon("watch", pid), after: ofDaemon("unwatch", pid)},
		{name: "`sockwatch unwatch PID`", argv: ofDaemon("unwatch", pid), before: ofDaemon("watch", pid)},
	}}
	rounds := p.rounds * p.samples / 10
	fmt.Fprintf(os.Stderr, "starting %d commands %d x\n", len(m.commands), rounds/2)
	for round := range rounds/2 + 1 {
		for turn := range m.commands {
			s := m.commands[(turn+round)%len(m.commands)] // who is first changes
			took, err := s.run(ctx, empty)
			if err != nil {
				return nil, err
			}
			if round > 0 { // the first one warms up
				s.took = append(s.took, float64(took))
			}
		}
	}
	for range rounds / 2 {
		begin := time.Now()
		another, err := startDaemon(ctx, program, state, "")
		m.ready = append(m.ready, float64(time.Since(begin)))
		if err == nil {
			err = another.end()
		}
		if err != nil {
			return nil, err
		}
	}
	if m.run, err = measureStarts(ctx, rounds, program, floor, dir, d); err != nil {
		return nil, err
	}
	return m.record(), nil
}

// run runs it to its end. There is no daemon for it, unless it is told of one.
func (s *startup) run(ctx context.Context, runtimeDir string) (took time.Duration, err error) {
	for which, argv := range [][]string{s.before, s.argv, s.after} {
		if argv == nil {
			continue
		}
		cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
		cmd.Env = append(os.Environ(), client.RuntimeDirEnv+"="+runtimeDir)
		if s.env != "" {
			cmd.Env = append(cmd.Env, s.env)
		}
		begin := time.Now()
		if err := cmd.Run(); err != nil {
			return 0, fmt.Errorf("%v: %w", argv, err)
		}
		if which == 1 {
			took = time.Since(begin)
		}
	}
	return took, nil
}

func (m *startups) record() *record {
	t := table{Name: "starts", Columns: []string{"from the start to the end", "p50 / true", "p50 more than true", "p50", "p90"}}
	bare := quantile(m.commands[startTrue].took, 0.5)
	add := func(name string, took []float64) {
		p50 := quantile(took, 0.5)
		t.add(name, ratio(p50/bare), nanos(p50-bare), duration(p50), duration(quantile(took, 0.9)))
	}
	for _, s := range m.commands {
		add(s.name, s.took)
	}
	add("`sockwatch daemon`, to READY=1", m.ready)
	r := &record{Tables: []table{t}, Targets: []target{
		atMost("`sockwatch --help`", quantile(m.commands[startHelp].took, 0.5), float64(targetHelp), duration),
		atMost("`sockwatch run -- true` more than `true`", quantile(m.commands[startRunTrue].took, 0.5)-bare, float64(targetRun), duration),
		atMost("size of the program, as `make build` makes it", float64(m.size), targetBinary, func(bytes float64) string {
			return fmt.Sprintf("%.1f MB", bytes/1e6)
		}),
	}}
	m.run.addTo(r)
	return r
}

// addTo adds what run adds to the start of a command.
func (s starts) addTo(r *record) {
	bare, alone, with := medians(s.bare), medians(s.alone), medians(s.withDaemon)
	t := table{Name: "run", Columns: []string{
		"a command that binds a sock-file", "start -> it listens, more than by itself", "start -> it listens", "it is to end -> the end",
	}}
	for _, row := range []struct {
		name string
		took started
	}{{"by itself", bare}, {"by `sockwatch run`, no daemon", alone}, {"by `sockwatch run`, with a daemon", with}} {
		t.add(row.name, nanos(float64(row.took.listening-bare.listening)), duration(float64(row.took.listening)), duration(float64(row.took.ended)))
	}
	r.Tables = append(r.Tables, t)
	r.Targets = append(r.Targets,
		atMost("`sockwatch run` adds to the start of a command", float64(alone.listening-bare.listening), float64(targetRun), duration),
		atMost("a daemon adds to that", float64(with.listening-alone.listening), float64(targetRun), duration))
}

func medians(all []started) started {
	var listening, ended []float64
	for _, s := range all {
		listening, ended = append(listening, float64(s.listening)), append(ended, float64(s.ended))
	}
	median := func(values []float64) time.Duration {
		return time.Duration(quantile(values, 0.5)).Round(10 * time.Microsecond)
	}
	return started{median(listening), median(ended)}
}
