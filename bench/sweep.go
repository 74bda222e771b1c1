package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"github.com/sockwatch/sockwatch/reap"
)

// sweeper is a command that removes the dead sock-files from a directory, or what it holds for such.
type sweeper struct {
	name    string
	program string                    // which has to be there
	argv    func(dir string) []string // has the rest of its arguments
	rule    func(dir string) string   // has the line of its configuration, whose path is then the last argument
	knows   bool                      // what is alive, and never removes it
}

// Those that others are compared with, and the one that is judged.
const (
	sweptByFloor   = 0
	sweptByPackage = 1
	sweptByFind    = 4
)

// findSweepers is who can sweep here, and why others cannot.
func (b *sweepBench) findSweepers() (found []sweeper, leftOut []string) {
	alone := func(args ...string) func(string) []string {
		return func(dir string) []string { return append(args, dir) }
	}
	for _, s := range []sweeper{
		sweptByFloor:   {name: "C floor", program: b.floor, argv: func(dir string) []string { return []string{"sweep", dir, "1"} }, knows: true},
		sweptByPackage: {name: "sockwatch: package reap", program: "/proc/self/exe", argv: alone("sweep"), knows: true},
		{name: "`sockwatch reap`", program: b.sockwatch, argv: alone("reap"), knows: true},
		{name: "C floor, two threads", program: b.floor, argv: func(dir string) []string { return []string{"sweep", dir, "2"} }, knows: true},
		sweptByFind: {
			name: "`find -type s -delete`", program: "find",
			argv: func(dir string) []string { return []string{dir, "-type", "s", "-delete"} },
		},
		{name: "`rm -rf`", program: "rm", argv: alone("-rf")},
		{
			name: "`systemd-tmpfiles --clean`", program: "systemd-tmpfiles", argv: func(string) []string { return []string{"--clean"} },
			rule: func(dir string) string { return "e " + dir + " - - - 0" },
		},
		{
			name: "`systemd-tmpfiles --remove`", program: "systemd-tmpfiles", argv: func(string) []string { return []string{"--remove"} },
			rule: func(dir string) string { return "r " + dir + "/*.sock" },
		},
	} {
		if _, err := exec.LookPath(s.program); err != nil {
			leftOut = append(leftOut, fmt.Sprintf("%s: %s", s.name, err))
			continue
		}
		found = append(found, s)
	}
	return found, leftOut
}

// command has the sweeper sweep one directory.
func (s sweeper) command(ctx context.Context, dir string) (*exec.Cmd, error) {
	args := s.argv(dir)
	if s.rule != nil {
		configuration := dir + ".conf"
		if err := os.WriteFile(configuration, []byte(s.rule(dir)+"\n"), 0o644); err != nil {
			return nil, err
		}
		args = append(args, configuration)
	}
	return exec.CommandContext(ctx, s.program, args...), nil
}

// sweepOnce is this program when it is to sweep a directory and do nothing else.
func sweepOnce(ctx context.Context, dir string) error {
	for r := range reap.Sweep(ctx, reap.SweepOptions{}, dir) {
		if !r.Outcome.OK() {
			return fmt.Errorf("%s is %s: %w", r.Path, r.Outcome, r.Err)
		}
	}
	return nil
}

// workload is what there is to be swept, again in each turn.
type workload struct {
	dead, live int
	place      place
	rounds     int // that count
	warmUps    int // before them
}

// place is where directories to be swept are made.
type place struct{ filesystem, dir, picture string }

// swept is what one turn took: nanoseconds from the command's start to its end, and of the processor.
type swept struct{ took, cpu float64 }

// sweeps is what was measured of sweeping.
type sweeps struct {
	sweepers []sweeper
	turns    []sweepTurns
	deleted  []deleted
	leftOut  []string
}

// sweepTurns are those of all sweepers with one workload: by sweeper, then by round.
type sweepTurns struct {
	workload
	swept [][]swept
}

// deleted is what was gone after a sweep that was alive, of livingKinds each.
type deleted struct {
	sweeper
	living [len(livingKinds)]int
	left   int // of the dead
}

// livingKinds are listeners whose sock-files are not all told from dead ones. There are livingEach of each.
var livingKinds = [...]struct {
	name, mode string
	elsewhere  bool // in another network namespace
}{
	{name: "here", mode: "live"},
	{name: "relative", mode: "relative"},
	{name: "elsewhere", mode: "live", elsewhere: true},
}

const livingEach = 100

type sweepBench struct {
	floor, sockwatch, litter string // programs
}

// sweeping has everybody sweep the same again and again, and sees what of that was alive.
func sweeping(ctx context.Context, p plan, dir string) (_ *record, err error) {
	b := &sweepBench{}
	if b.floor, err = compile(ctx, "floor", dir); err != nil {
		return nil, err
	}
	if b.litter, err = compile(ctx, "sweep", dir); err != nil {
		return nil, err
	}
	if b.sockwatch, err = buildSockwatch(ctx, dir); err != nil {
		return nil, err
	}
	m := &sweeps{}
	m.sweepers, m.leftOut = b.findSweepers()
	state, err := os.MkdirTemp("/dev/shm", "bench") // a tmpfs, as /run is
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(state)
	places := []place{{dir: dir, picture: "sweep"}, {dir: state, picture: "sweep-tmpfs"}}
	for i := range places {
		if places[i].filesystem, err = filesystem(places[i].dir); err != nil {
			return nil, err
		}
	}
	for _, at := range places {
		for _, w := range []workload{
			{dead: 2 * p.inBurst, rounds: (p.rounds + 1) / 2, warmUps: 1},
			{dead: p.inBurst, live: p.inBurst, rounds: (p.rounds + 1) / 2, warmUps: 1},
			{dead: 20 * p.inBurst, rounds: p.bursts},
		} {
			w.place = at
			t, err := b.turns(ctx, m.sweepers, w)
			if err != nil {
				return nil, err
			}
			m.turns = append(m.turns, t)
		}
	}
	for _, s := range m.sweepers {
		d, err := b.deletes(ctx, s, state)
		if err != nil {
			return nil, err
		}
		m.deleted = append(m.deleted, d)
	}
	return m.record(), nil
}

// turns has each sweep one workload so many times.
func (b *sweepBench) turns(ctx context.Context, sweepers []sweeper, w workload) (sweepTurns, error) {
	fmt.Fprintf(os.Stderr, "sweeping %s dead and %s live on %s, %d x %d\n", thousands(w.dead), thousands(w.live), w.place.filesystem,
		len(sweepers), w.warmUps+w.rounds)
	t := sweepTurns{w, make([][]swept, len(sweepers))}
	for round := range w.warmUps + w.rounds {
		for turn := range sweepers {
			i := (turn + round) % len(sweepers) // who is first changes
			s, err := b.turn(ctx, sweepers[i], w)
			if err != nil {
				return t, fmt.Errorf("%s: %w", sweepers[i].name, err)
			}
			if round >= w.warmUps {
				t.swept[i] = append(t.swept[i], s)
			}
		}
	}
	return t, nil
}

// turn has one sweep a workload.
func (b *sweepBench) turn(ctx context.Context, s sweeper, w workload) (_ swept, err error) {
	dir, clean, err := newSwept(w.place.dir)
	if err != nil {
		return swept{}, err
	}
	defer clean()
	if w.live > 0 {
		var live *side
		if live, err = b.listen(ctx, "live", w.live, dir, "live", false); err != nil {
			return swept{}, err
		}
		defer func() { err = errors.Join(err, live.end()) }()
	}
	took, left, err := b.sweep(ctx, s, dir, w.dead)
	if err == nil && left["dead"] > 0 {
		err = fmt.Errorf("%d dead sock-files are left", left["dead"])
	}
	if err == nil && s.knows && left["live"] < w.live {
		err = fmt.Errorf("%d live sock-files are gone", w.live-left["live"])
	}
	return took, err
}

// deletes finds out what one deletes that is alive.
func (b *sweepBench) deletes(ctx context.Context, s sweeper, below string) (_ deleted, err error) {
	d := deleted{sweeper: s}
	dir, clean, err := newSwept(below)
	if err != nil {
		return d, err
	}
	defer clean()
	for i, k := range livingKinds {
		var l *side
		l, err = b.listen(ctx, k.mode, livingEach, dir, k.name, k.elsewhere)
		if k.elsewhere && (errors.Is(err, fs.ErrPermission) || errors.Is(err, syscall.ENOSPC)) { // so many namespaces there may be
			d.living[i] = -1
			continue
		}
		if err != nil {
			return d, err
		}
		defer func() { err = errors.Join(err, l.end()) }()
	}
	_, left, err := b.sweep(ctx, s, dir, livingEach)
	for i, k := range livingKinds {
		if d.living[i] == 0 {
			d.living[i] = livingEach - left[k.name]
		}
	}
	d.left = left["dead"]
	return d, err
}

// newSwept makes a directory that is to be swept, and what removes it.
func newSwept(below string) (dir string, clean func(), err error) {
	dir, err = os.MkdirTemp(below, "swept")
	return dir, func() { _, _ = os.RemoveAll(dir), os.RemoveAll(dir+".conf") }, err
}

// sweep adds so many dead sock-files to a directory and has it swept. What is left there is counted by the names without their numbers.
func (b *sweepBench) sweep(ctx context.Context, s sweeper, dir string, dead int) (took swept, left map[string]int, err error) {
	made := exec.CommandContext(ctx, b.litter, "dead", fmt.Sprint(dead), dir, "dead")
	made.Stderr = os.Stderr
	if err := made.Run(); err != nil {
		return took, nil, err
	}
	cmd, err := s.command(ctx, dir)
	if err != nil {
		return took, nil, err
	}
	var said bytes.Buffer
	cmd.Stderr = &said
	begin := time.Now()
	err = cmd.Run()
	took.took = float64(time.Since(begin))
	if err != nil {
		return took, nil, fmt.Errorf("%w\n%s", err, &said)
	}
	took.cpu = float64(cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime())
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) { // rm's
		err = nil
	}
	left = map[string]int{}
	for _, e := range entries {
		left[strings.TrimRight(strings.TrimSuffix(e.Name(), ".sock"), "0123456789")]++
	}
	return took, left, err
}

// listen starts n listeners in a directory, or in that and a network namespace of their own.
func (b *sweepBench) listen(ctx context.Context, mode string, n int, dir, name string, elsewhere bool) (*side, error) {
	cmd := exec.CommandContext(ctx, b.litter, mode, fmt.Sprint(n), dir, name)
	cmd.Stderr = os.Stderr
	if elsewhere {
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
		if uid := os.Geteuid(); uid != 0 { // then it takes a user namespace
			cmd.SysProcAttr.Cloneflags |= syscall.CLONE_NEWUSER
			cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: uid, HostID: uid, Size: 1}}
		}
	}
	return startCommand(cmd)
}
