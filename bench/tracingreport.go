package main

import (
	"fmt"
	"slices"
)

func (m *tracing) record() *record {
	r := &record{LeftOut: m.leftOut}
	measured := slices.DeleteFunc(slices.Clone(m.tracers), func(t tracerTurns) bool { return t.failed || len(t.starts) == 0 })
	r.Tables = []table{loopTable(measured), workTable(measured), startTable(measured)}
	for _, each := range m.tracers {
		if each.disturbed > 0 {
			r.LeftOut = append(r.LeftOut, fmt.Sprintf("%s: %d pairs of turns counted, and not those %d in which somebody else traced",
				each.name, len(each.starts), each.disturbed))
		}
	}
	return r
}

// loopTable is what tracing costs others.
func loopTable(tracers []tracerTurns) table {
	t := table{Name: "loops", Columns: []string{
		"loop", "tracer", "p50, with / without", "pairs' p50: low - middle - high", "without p50", "with",
	}}
	for i, k := range loopKinds {
		for _, each := range tracers {
			l := each.loops[i]
			t.add(k.name, each.name, ratio(l.ratio(0.5)), spread(l.pairs()),
				nanos(quantile(slices.Concat(l.base...), 0.5)), nanos(quantile(slices.Concat(l.other...), 0.5)))
		}
	}
	return t
}

// workTable is what a bind costs who traces: the middle one of all turns.
func workTable(tracers []tracerTurns) table {
	t := table{Name: "works", Columns: []string{
		"loop", "tracer", "its BPF programs, each bind", "its own processor time", "its context switches",
	}}
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
			t.add(k.name, each.name,
				nanos(middle(func(w work) int64 { return w.programs })), nanos(middle(func(w work) int64 { return w.cpu })),
				fmt.Sprintf("%.2f", middle(func(w work) int64 { return w.switches })))
		}
	}
	return t
}

// startTable is how long programs take until they trace, and whether they told of all binds.
func startTable(tracers []tracerTurns) table {
	t := table{Name: "starts", Columns: []string{"tracer", "start -> it traces, by the first", "p50", "told"}}
	tracers = slices.DeleteFunc(slices.Clone(tracers), func(t tracerTurns) bool { return t.tells == "" })
	for _, each := range tracers {
		start := quantile(each.starts, 0.5)
		t.add(each.name, ratio(start/quantile(tracers[0].starts, 0.5)), duration(start), fmt.Sprintf("%d of %d", each.told, each.bound))
	}
	return t
}

// nanos is a time that may be none at all.
func nanos(ns float64) string {
	if ns == 0 {
		return "-"
	}
	return duration(ns)
}
