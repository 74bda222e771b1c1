package main

import (
	"fmt"
	"io"
	"slices"
	"text/tabwriter"
	"time"
)

// The targets of the daemon: as many times what package watch takes, bytes, time.
const (
	targetThrough  = 1.3
	targetResident = 20 << 20
	targetStart    = 3 * time.Millisecond
)

func (m *through) print(out io.Writer) error {
	t := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintf(out, "\ndaemon / library (target: exit event -> file gone, p50 %.1f)\n\n", targetThrough)
	fmt.Fprintln(t, "\tregistered\tby\tp50\tp90\tpairs' p50: low\tmiddle\thigh\tlibrary p50\tdaemon\tlibrary p90\tdaemon\t")
	// The daemon tells whole microseconds.
	afterExit := func(d death) int64 { return (d.Gone - d.ExitEvent) / 1000 * 1000 }
	for _, r := range m.deaths {
		r.print(t, "exit event -> file gone", afterExit, func(p50 float64) string { return judge(p50, targetThrough) })
	}
	for _, r := range m.deaths {
		r.print(t, "kill -> file gone", func(d death) int64 { return d.Gone - d.Kill },
			func(p50 float64) string { return fmt.Sprintf("%.2f", p50) })
	}
	if err := t.Flush(); err != nil {
		return err
	}
	fmt.Fprintln(out)
	m.printRegistered(out)
	m.printIdle(out)
	m.starts.print(out)
	return nil
}

// print prints the ratios of one interval, for each side that is not package watch.
func (r throughRounds) print(out io.Writer, interval string, of func(death) int64, judged func(float64) string) {
	names := [...]string{byDaemon: "own user", byDaemonForOthers: "other user"}
	for which := byDaemon; which < len(r.turns); which++ {
		both := beside{pick(r.turns[byLibrary], of), pick(r.turns[which], of)}
		l, d := slices.Concat(both.base...), slices.Concat(both.other...)
		pairs := both.pairs()
		fmt.Fprintf(out, "%s\t%d\t%s\t%s\t%.2f\t%.2f\t%.2f\t%.2f\t%s\t%s\t%s\t%s\t\n", interval, r.registered, names[which],
			judged(both.ratio(0.5)), both.ratio(0.9),
			quantile(pairs, 0), quantile(pairs, 0.5), quantile(pairs, 1),
			micros(quantile(l, 0.5)), micros(quantile(d, 0.5)), micros(quantile(l, 0.9)), micros(quantile(d, 0.9)))
	}
}

func (m *through) printRegistered(out io.Writer) {
	n := slices.Max(registeredWith())
	perSecond, kernel := map[int][]float64{}, map[int][]float64{}
	for _, r := range m.registered {
		perSecond[r.connections] = append(perSecond[r.connections], float64(n)/r.took.Seconds())
		kernel[r.connections] = append(kernel[r.connections], float64(r.kernel)/float64(n))
	}
	for _, c := range []int{1, connections} {
		middle, library := quantile(perSecond[c], 0.5), quantile(perSecond[0], 0.5)
		fmt.Fprintf(out, "Watch, connections: %d: %.0f per second (lowest %.0f, highest %.0f); the library adds %.1f times as many\n", c,
			middle, slices.Min(perSecond[c]), slices.Max(perSecond[c]), library/middle)
	}
	own := m.most.memory.anonymous - m.none.memory.anonymous
	fmt.Fprintf(out, "memory per registered process with one claim, %d registered: %d bytes of the daemon's own; %.0f of the kernel's (library: %.0f)\n",
		n, own/int64(n), quantile(append(kernel[1], kernel[connections]...), 0.5), quantile(kernel[0], 0.5))
}

func (m *through) printIdle(out io.Writer) {
	for _, i := range []struct {
		registered int
		idle       idle
	}{{0, m.none}, {slices.Max(registeredWith()), m.most}} {
		resident := ""
		if i.registered == 0 && i.idle.memory.resident >= targetResident {
			resident = " MISSED"
		}
		wakeUps := ""
		if i.idle.wakeUps > 0 {
			wakeUps = " MISSED"
		}
		fmt.Fprintf(out, "idle, %d registered: resident %.1f MiB%s, of it %.1f anonymous; %d wake-ups in %s%s\n", i.registered,
			mebi(i.idle.memory.resident), resident, mebi(i.idle.memory.anonymous), i.idle.wakeUps, idleFor, wakeUps)
	}
}

func mebi(bytes int64) float64 { return float64(bytes) / (1 << 20) }

func (s starts) print(out io.Writer) {
	bare, alone, with := medians(s.bare), medians(s.alone), medians(s.withDaemon)
	missed := ""
	if with.listening-alone.listening >= targetStart {
		missed = " MISSED"
	}
	fmt.Fprintf(out, "run, start -> the command listens: without a daemon %s, with one %s: %s more%s (target: under %s; no run at all: %s)\n",
		alone.listening, with.listening, with.listening-alone.listening, missed, targetStart, bare.listening)
	fmt.Fprintf(out, "run, the command's end is asked for -> run's end: without a daemon %s, with one %s (no run at all: %s)\n",
		alone.ended, with.ended, bare.ended)
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
