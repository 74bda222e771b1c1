package main

import (
	"fmt"
	"strings"
)

// targetSweep: no more than so many times what the floor takes.
const targetSweep = 1.25

func (m *sweeps) record() *record {
	r := &record{LeftOut: m.leftOut}
	t := table{Name: "sweeps", Columns: []string{
		"swept", "on", "by", "p50 / floor", "pairs: low - middle - high", "processor time / floor", "p50 / find", "p50 for each dead file",
	}}
	for _, w := range m.turns {
		w.addTo(r, &t, m.sweepers)
	}
	r.Tables = append(r.Tables, t)
	m.addPictures(r)
	m.addDeleted(r)
	return r
}

// addPictures adds one of the greatest workload in each place.
func (m *sweeps) addPictures(r *record) {
	most := 0
	for _, w := range m.turns {
		most = max(most, w.dead)
	}
	for _, w := range m.turns {
		if w.dead < most {
			continue
		}
		bars := picture{
			Name: w.place.picture, Kind: barsPicture, X: "microseconds for each file",
			Title: fmt.Sprintf("Removing %s dead sock-files, %s", thousands(w.dead), w.place.filesystem),
		}
		for i, s := range m.sweepers {
			bars.Series = append(bars.Series, series{
				Name: strings.ReplaceAll(s.name, "`", ""), X: []float64{rounded(w.each(i) / 1e3)}, Note: m.deleted[i].alive(),
			})
		}
		r.Pictures = append(r.Pictures, bars)
	}
}

// what says what is swept.
func (w workload) what() string {
	if w.live == 0 {
		return thousands(w.dead) + " dead"
	}
	return fmt.Sprintf("%s dead, %s alive", thousands(w.dead), thousands(w.live))
}

func (t sweepTurns) addTo(r *record, rows *table, sweepers []sweeper) {
	took := func(s swept) float64 { return s.took }
	cpu := func(s swept) float64 { return s.cpu }
	for i, s := range sweepers {
		byFloor := t.beside(sweptByFloor, i, took)
		p50 := ratio(byFloor.ratio(0.5))
		if i == sweptByPackage {
			p50 = judge(byFloor.ratio(0.5), targetSweep)
			r.Targets = append(r.Targets, atMost(fmt.Sprintf("sweep by the floor's, one worker each, %s, %s", t.what(), t.place.filesystem),
				byFloor.ratio(0.5), targetSweep, ratio))
		}
		rows.add(t.what(), t.place.filesystem, s.name, p50, spread(byFloor.pairs()), ratio(t.beside(sweptByFloor, i, cpu).ratio(0.5)),
			ratio(t.beside(sweptByFind, i, took).ratio(0.5)), duration(t.each(i)))
	}
}

// beside has the turns of two sweepers, one value in each.
func (t sweepTurns) beside(base, other int, of func(swept) float64) (both beside) {
	for round := range t.swept[base] {
		both.base = append(both.base, []float64{of(t.swept[base][round])})
		both.other = append(both.other, []float64{of(t.swept[other][round])})
	}
	return both
}

// each is the median time for a dead file.
func (t sweepTurns) each(sweeper int) float64 {
	var took []float64
	for _, s := range t.swept[sweeper] {
		took = append(took, s.took/float64(t.dead))
	}
	return quantile(took, 0.5)
}

// alive says how much was deleted that was alive, if it was.
func (d deleted) alive() string {
	lost, of := 0, 0
	for _, n := range d.living {
		if n >= 0 {
			lost, of = lost+n, of+livingEach
		}
	}
	if lost == 0 {
		return ""
	}
	return fmt.Sprintf("deletes live ones: %d of %d", lost, of)
}

// addDeleted adds what was alive and is not there any more.
func (m *sweeps) addDeleted(r *record) {
	t := table{Name: "deleted", Columns: []string{
		fmt.Sprintf("of %d each", livingEach), "alive, deleted", "alive, bound by a relative name, deleted",
		"alive in another network namespace, deleted", "dead, left",
	}}
	for _, d := range m.deleted {
		row := []string{d.name}
		for _, n := range d.living {
			cell := fmt.Sprint(n)
			if n < 0 {
				cell = "not to be had here"
			}
			row = append(row, cell)
		}
		t.add(append(row, fmt.Sprint(d.left))...)
		if strings.HasPrefix(strings.Trim(d.name, "`"), "sockwatch") {
			is := target{What: "sweep: live sock-files that are deleted, " + d.name, Target: "none", Is: "none"}
			if lost := d.alive(); lost != "" {
				is.Is, is.Missed = lost, true
			}
			r.Targets = append(r.Targets, is)
		}
	}
	r.Tables = append(r.Tables, t)
}
