package main

import (
	"fmt"
	"io"
	"slices"
	"text/tabwriter"
)

func (m *tracing) print(out io.Writer) error {
	if m.cannot != "" {
		_, err := fmt.Fprintf(out, "\nwhat tracing costs: left out: %s\n", m.cannot)
		return err
	}
	measured := slices.DeleteFunc(slices.Clone(m.tracers), func(t tracerTurns) bool { return t.failed || len(t.starts) == 0 })
	t := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	for _, table := range []func(*tabwriter.Writer, []tracerTurns){printLoops, printWorks, printStarts} {
		table(t, measured)
		if err := t.Flush(); err != nil {
			return err
		}
	}
	fmt.Fprintln(out)
	for _, why := range m.leftOut {
		fmt.Fprintf(out, "left out: %s\n", why)
	}
	for _, each := range m.tracers {
		if each.disturbed > 0 {
			fmt.Fprintf(out, "%s: %d pairs of turns counted, and not those %d in which somebody else traced\n",
				each.name, len(each.starts), each.disturbed)
		}
	}
	_, err := fmt.Fprintf(out, "load average: %s before, %s after\n", m.load[0], m.load[1])
	return err
}

// printLoops prints what tracing costs others.
func printLoops(t *tabwriter.Writer, tracers []tracerTurns) {
	fmt.Fprint(t, "\nwith a tracer / without\n\n")
	fmt.Fprintln(t, "\ttracer\tp50\tpairs' p50: low\tmiddle\thigh\twithout p50\twith\t")
	for i, k := range loopKinds {
		for _, each := range tracers {
			l := each.loops[i]
			pairs := l.pairs()
			fmt.Fprintf(t, "%s\t%s\t%.2f\t%.2f\t%.2f\t%.2f\t%s\t%s\t\n", k.name, each.name, l.ratio(0.5),
				quantile(pairs, 0), quantile(pairs, 0.5), quantile(pairs, 1),
				nanos(quantile(slices.Concat(l.base...), 0.5)), nanos(quantile(slices.Concat(l.other...), 0.5)))
		}
	}
}

// printWorks prints what a bind costs who traces: the middle one of all turns.
func printWorks(t *tabwriter.Writer, tracers []tracerTurns) {
	fmt.Fprint(t, "\nfor each bind\n\n")
	fmt.Fprintln(t, "\ttracer\tits BPF programs\tits own processor time\tits context switches\t")
	for i, k := range loopKinds {
		if !k.binds {
			continue
		}
		for _, each := range tracers {
			middle := func(of func(work) int64) float64 {
				var values []float64
				for _, w := range each.works[i] {
					values = append(values, float64(of(w))/workedFor)
				}
				return quantile(values, 0.5)
			}
			fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%.2f\t\n", k.name, each.name,
				nanos(middle(func(w work) int64 { return w.programs })), nanos(middle(func(w work) int64 { return w.cpu })),
				middle(func(w work) int64 { return w.switches }))
		}
	}
}

// printStarts prints how long programs take until they trace, and whether they told of all binds.
func printStarts(t *tabwriter.Writer, tracers []tracerTurns) {
	tracers = slices.DeleteFunc(slices.Clone(tracers), func(t tracerTurns) bool { return t.tells == "" })
	if len(tracers) == 0 {
		return
	}
	first := quantile(tracers[0].starts, 0.5)
	fmt.Fprintf(t, "\nfrom the start until it traces, and of how many binds it told\n\n")
	fmt.Fprintln(t, "tracer\tby the first\tp50\ttold\t")
	for _, each := range tracers {
		start := quantile(each.starts, 0.5)
		fmt.Fprintf(t, "%s\t%.2f\t%s\t%d of %d\t\n", each.name, start/first, millis(int64(start)), each.told, each.bound)
	}
}

// nanos is a time too short for micros, too.
func nanos(ns float64) string {
	switch {
	case ns == 0:
		return "-"
	case ns < 1000:
		return fmt.Sprintf("%.0fns", ns)
	}
	return micros(ns)
}
