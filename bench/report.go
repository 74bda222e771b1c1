package main

import (
	"context"
	"fmt"
	"io"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"golang.org/x/sys/unix"
)

// The targets: no more than so many times the floor's, or bytes.
const (
	targetP50   = 1.15
	targetP99   = 1.5
	targetFlat  = 1.2
	targetBurst = 1.3
	targetHeap  = 1024
)

// printMachine says what the times are those of.
func printMachine(ctx context.Context, out io.Writer, dir string) error {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return err
	}
	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); err != nil {
		return err
	}
	compiler, err := exec.CommandContext(ctx, "gcc", "--version").Output()
	if err != nil {
		return err
	}
	first, _, _ := strings.Cut(string(compiler), "\n")
	_, err = fmt.Fprintf(out, "Linux %s, %d CPUs, %s, %s; sock-files on a filesystem of type %#x\n",
		unix.ByteSliceToString(u.Release[:]), runtime.NumCPU(), runtime.Version(), first, fs.Type)
	return err
}

func (r *besideTheFloor) print(out io.Writer) error {
	t := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintf(out, "\nsockwatch / floor (targets: p50 %.2f, p99 %.1f, flat %.1f)\n\n", targetP50, targetP99, targetFlat)
	fmt.Fprintln(t, "\twatched\tp50\tp99\tpairs' p50: low\tmiddle\thigh\tfloor p50\tsockwatch\tfloor p99\tsockwatch\t")
	intervals := []struct {
		name string
		of   func(death) int64
	}{
		{"exit event -> file gone", func(d death) int64 { return d.Gone - d.ExitEvent }},
		{"kill -> file gone", func(d death) int64 { return d.Gone - d.Kill }},
	}
	var flat strings.Builder
	for _, in := range intervals {
		var c50, s50 []float64
		for _, m := range r.deaths {
			both := beside{pick(m.floor, in.of), pick(m.sockwatch, in.of)}
			c, sw := slices.Concat(both.base...), slices.Concat(both.other...)
			c50, s50 = append(c50, quantile(c, 0.5)), append(s50, quantile(sw, 0.5))
			pairs := both.pairs()
			fmt.Fprintf(t, "%s\t%d\t%s\t%s\t%.2f\t%.2f\t%.2f\t%s\t%s\t%s\t%s\t\n", in.name, m.watched,
				judge(both.ratio(0.5), targetP50), judge(both.ratio(0.99), targetP99),
				quantile(pairs, 0), quantile(pairs, 0.5), quantile(pairs, 1),
				micros(quantile(c, 0.5)), micros(quantile(sw, 0.5)), micros(quantile(c, 0.99)), micros(quantile(sw, 0.99)))
		}
		fmt.Fprintf(&flat, "flat over the number watched, %s: %s (floor %.2f)\n",
			in.name, judge(slices.Max(s50)/slices.Min(s50), targetFlat), slices.Max(c50)/slices.Min(c50))
	}
	if err := t.Flush(); err != nil {
		return err
	}
	fmt.Fprintf(out, "\n%s", flat.String())
	for _, m := range r.deaths {
		took := slices.Concat(pick(m.sockwatch, func(d death) int64 { return d.Removal })...)
		fmt.Fprintf(out, "the removal alone, sockwatch, %d watched: p50 %s, p99 %s\n",
			m.watched, micros(quantile(took, 0.5)), micros(quantile(took, 0.99)))
	}
	missed := ""
	if r.heapPerOwner >= targetHeap {
		missed = " MISSED"
	}
	fmt.Fprintf(out, "heap per owner with one claim, %d watched: %d bytes%s (target: under %d)\n",
		r.deaths[len(r.deaths)-1].watched, r.heapPerOwner, missed, targetHeap)
	printBursts(out, r.bursts)
	return nil
}

func printBursts(out io.Writer, bursts []pair) {
	var ratios []float64
	var each strings.Builder
	for _, b := range bursts {
		c, sw := b.floor.Gone-b.floor.Kill, b.sockwatch.Gone-b.sockwatch.Kill
		ratios = append(ratios, float64(sw)/float64(c))
		fmt.Fprintf(&each, "  %.2f: floor %s, sockwatch %s (last kill after %s, %s)\n", float64(sw)/float64(c),
			millis(c), millis(sw), millis(b.floor.Killed-b.floor.Kill), millis(b.sockwatch.Killed-b.sockwatch.Kill))
	}
	fmt.Fprintf(out, "%d killed at once, first kill -> last file gone: %s (target %.1f; the middle one of %d)\n%s",
		inBurst, judge(quantile(ratios, 0.5), targetBurst), targetBurst, len(bursts), each.String())
}

// judge prints a ratio and whether the target is missed.
func judge(ratio, target float64) string {
	if ratio > target {
		return fmt.Sprintf("%.2f MISSED", ratio)
	}
	return fmt.Sprintf("%.2f", ratio)
}

// pick gives one interval of the deaths of each turn.
func pick(turns [][]death, of func(death) int64) [][]float64 {
	picked := make([][]float64, len(turns))
	for i, turn := range turns {
		for _, d := range turn {
			picked[i] = append(picked[i], float64(of(d)))
		}
	}
	return picked
}

// beside is what two sides have measured in turn: turn i of the one came right before or right after turn i of the other.
type beside struct{ base, other [][]float64 }

// ratio compares a quantile of all turns together.
func (b beside) ratio(q float64) float64 {
	return quantile(slices.Concat(b.other...), q) / quantile(slices.Concat(b.base...), q)
}

// pairs gives the ratio of the medians of each two turns that were beside each other.
func (b beside) pairs() []float64 {
	ratios := make([]float64, len(b.base))
	for i := range ratios {
		ratios[i] = quantile(b.other[i], 0.5) / quantile(b.base[i], 0.5)
	}
	return ratios
}

// quantile is the smallest value that a share q of all does not exceed.
func quantile(values []float64, q float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	return sorted[min(int(q*float64(len(sorted))), len(sorted)-1)]
}

func micros(ns float64) string { return fmt.Sprintf("%.1fµs", ns/1e3) }

func millis(ns int64) string { return time.Duration(ns).Round(time.Millisecond).String() }
