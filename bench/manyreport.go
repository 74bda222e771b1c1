package main

import (
	"fmt"
	"slices"
	"strings"
)

// The targets: no more than so many times the floor's, or bytes.
const (
	targetP50   = 1.15
	targetP99   = 1.5
	targetFlat  = 1.2
	targetBurst = 1.3
	targetHeap  = 1024
)

// interval is a part of a death.
type interval struct {
	name string
	of   func(death) int64
}

var (
	afterExit = interval{"exit event -> file gone", func(d death) int64 { return d.Gone - d.ExitEvent }}
	afterKill = interval{"kill -> file gone", func(d death) int64 { return d.Gone - d.Kill }}
)

func (m *many) record() *record {
	r := &record{LeftOut: m.leftOut}
	for _, in := range []interval{afterExit, afterKill} {
		m.compare(r, in)
	}
	r.Targets = append(r.Targets, target{
		What: fmt.Sprintf("heap per owner with one claim, %s watched", thousands(slices.Max(m.plan.watched))), Target: fmt.Sprintf("under %d bytes", targetHeap),
		Is: fmt.Sprintf("%d bytes", m.heapPerOwner), Missed: m.heapPerOwner >= targetHeap,
	})
	m.addRemoval(r)
	m.addBursts(r)
	return r
}

// compare adds the table of an interval, its targets and its picture.
func (m *many) compare(r *record, in interval) {
	t := table{Name: "after-exit", Columns: []string{
		"watched", "by", "p50 / floor", "p99 / floor", "pairs' p50: low - middle - high", "p50 of the floor", "sockwatch", "p99 of the floor", "sockwatch",
	}}
	lines := picture{
		Name: "many", Kind: linesPicture, Title: "From kill -9 until the sock-file is gone, by the number watched", X: "number of processes that are watched, logarithmic", Y: "median, in microseconds",
	}
	if in.name == afterKill.name {
		t.Name = "after-kill"
	}
	c := contenders{floor: series{Name: "C floor"}}
	for _, d := range m.deaths {
		both := beside{pick(d.floor, in.of), pick(d.sockwatch, in.of)}
		floor, sockwatch := slices.Concat(both.base...), slices.Concat(both.other...)
		p50, p99 := ratio(both.ratio(0.5)), ratio(both.ratio(0.99))
		if d.by == byWatch {
			p50, p99 = judge(both.ratio(0.5), targetP50), judge(both.ratio(0.99), targetP99)
			r.Targets = append(r.Targets, atMost(fmt.Sprintf("%s by the floor's, %s watched, p50", in.name, thousands(d.watched)),
				both.ratio(0.5), targetP50, ratio))
		}
		t.add(thousands(d.watched), d.by.name, p50, p99, spread(both.pairs()), duration(quantile(floor, 0.5)), duration(quantile(sockwatch, 0.5)),
			duration(quantile(floor, 0.99)), duration(quantile(sockwatch, 0.99)))
		c.add(d, quantile(floor, 0.5), quantile(sockwatch, 0.5))
	}
	r.Tables = append(r.Tables, t)
	flat := atMost("flat over the number watched, "+in.name, span(c.watch.Y), targetFlat, ratio)
	flat.Is += fmt.Sprintf(" (floor %s)", ratio(span(c.floor.Y)))
	r.Targets = append(r.Targets, flat)
	if in.name == afterKill.name {
		lines.Series = []series{c.floor, c.watch, c.daemon}
		r.Pictures = append(r.Pictures, lines)
	}
}

// contenders are the lines of the picture, in microseconds.
type contenders struct{ floor, watch, daemon series }

func (c *contenders) add(d rounds, floor, sockwatch float64) {
	point := func(s *series, name string, y float64) {
		s.Name, s.X, s.Y = name, append(s.X, float64(d.watched)), append(s.Y, rounded(y/1e3))
	}
	switch d.by {
	case byWatch: // the floor that took turns with it is shown
		point(&c.floor, c.floor.Name, floor)
		point(&c.watch, "sockwatch: package watch", sockwatch)
	case byClient:
		point(&c.daemon, "sockwatch daemon", sockwatch)
	}
}

// span is the greatest by the smallest.
func span(values []float64) float64 { return slices.Max(values) / slices.Min(values) }

func (m *many) addRemoval(r *record) {
	t := table{Name: "removal", Columns: []string{"watched", "the removal alone, p50", "p99"}}
	for _, d := range m.deaths {
		if d.by != byWatch {
			continue
		}
		took := slices.Concat(pick(d.sockwatch, func(d death) int64 { return d.Removal })...)
		t.add(thousands(d.watched), duration(quantile(took, 0.5)), duration(quantile(took, 0.99)))
	}
	r.Tables = append(r.Tables, t)
}

func (m *many) addBursts(r *record) {
	t := table{Name: "bursts", Columns: []string{
		fmt.Sprintf("%s killed at once, by", thousands(m.plan.inBurst)), "first kill -> last file gone / floor", "floor", "sockwatch",
		"last kill: floor", "sockwatch",
	}}
	ratios := map[contender][]float64{}
	for _, b := range m.bursts {
		floor, sockwatch := float64(b.floor.Gone-b.floor.Kill), float64(b.sockwatch.Gone-b.sockwatch.Kill)
		ratios[b.by] = append(ratios[b.by], sockwatch/floor)
		t.add(b.by.name, ratio(sockwatch/floor), duration(floor), duration(sockwatch),
			duration(float64(b.floor.Killed-b.floor.Kill)), duration(float64(b.sockwatch.Killed-b.sockwatch.Kill)))
	}
	r.Tables = append(r.Tables, t)
	r.Targets = append(r.Targets, atMost(fmt.Sprintf("%s killed at once by the floor's, middle one of %d", thousands(m.plan.inBurst), len(ratios[byWatch])),
		quantile(ratios[byWatch], 0.5), targetBurst, ratio))
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

// thousands is a number with a comma before each three digits.
func thousands(n int) string {
	digits := fmt.Sprint(n)
	var out strings.Builder
	for i, d := range digits {
		if i > 0 && (len(digits)-i)%3 == 0 {
			out.WriteByte(',')
		}
		out.WriteRune(d)
	}
	return out.String()
}
