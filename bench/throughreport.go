package main

import (
	"fmt"
	"slices"
)

// The targets of the daemon: as many times what package watch takes, bytes.
const (
	targetThrough  = 1.3
	targetResident = 20 << 20
)

func (m *through) record() *record {
	r := &record{}
	t := table{Name: "deaths", Columns: []string{
		"interval", "registered", "whose", "p50, daemon / library", "p90", "pairs' p50: low - middle - high",
		"p50 of the library", "the daemon", "p90 of the library", "the daemon",
	}}
	for _, in := range []interval{
		// The daemon tells whole microseconds.
		{afterExit.name, func(d death) int64 { return (d.Gone - d.ExitEvent) / 1000 * 1000 }}, afterKill,
	} {
		for _, d := range m.deaths {
			d.compare(r, &t, in, in.name == afterExit.name)
		}
	}
	r.Tables = append(r.Tables, t)
	m.addRegistered(r)
	m.addIdle(r)
	return r
}

// compare adds the ratios of one interval, for each side that is not package watch.
func (d throughRounds) compare(r *record, t *table, in interval, judged bool) {
	names := [...]string{byDaemon: "the daemon's own user", byDaemonForOthers: "another user"}
	for which := byDaemon; which < len(d.turns); which++ {
		both := beside{pick(d.turns[byLibrary], in.of), pick(d.turns[which], in.of)}
		library, daemon := slices.Concat(both.base...), slices.Concat(both.other...)
		p50 := ratio(both.ratio(0.5))
		if judged {
			p50 = judge(both.ratio(0.5), targetThrough)
			r.Targets = append(r.Targets, atMost(fmt.Sprintf("daemon by library, %s, %s registered, %s", in.name, thousands(d.registered), names[which]),
				both.ratio(0.5), targetThrough, ratio))
		}
		t.add(in.name, thousands(d.registered), names[which], p50, ratio(both.ratio(0.9)), spread(both.pairs()),
			duration(quantile(library, 0.5)), duration(quantile(daemon, 0.5)), duration(quantile(library, 0.9)), duration(quantile(daemon, 0.9)))
	}
}

// addRegistered adds how fast registering is, and what it takes of memory.
func (m *through) addRegistered(r *record) {
	n := slices.Max(registeredWith())
	perSecond, kernel := map[int][]float64{}, map[int][]float64{}
	for _, r := range m.registered {
		perSecond[r.connections] = append(perSecond[r.connections], float64(n)/r.took.Seconds())
		kernel[r.connections] = append(kernel[r.connections], float64(r.kernel)/float64(n))
	}
	t := table{Name: "registering", Columns: []string{"connections", "Watch requests per second", "lowest", "highest", "the library adds so many times as many"}}
	for _, c := range []int{1, connections} {
		middle := quantile(perSecond[c], 0.5)
		t.add(fmt.Sprint(c), thousands(int(middle)), thousands(int(slices.Min(perSecond[c]))), thousands(int(slices.Max(perSecond[c]))),
			ratio(quantile(perSecond[0], 0.5)/middle))
	}
	own := m.most.memory.anonymous - m.none.memory.anonymous
	memory := table{Name: "memory", Columns: []string{"bytes for each process with one claim", "its own", "the kernel's"}}
	memory.add("package watch", thousands(int(m.heap)), thousands(int(quantile(kernel[0], 0.5))))
	memory.add("the daemon", thousands(int(own)/n), thousands(int(quantile(append(kernel[1], kernel[connections]...), 0.5))))
	r.Tables = append(r.Tables, t, memory)
}

func (m *through) addIdle(r *record) {
	t := table{Name: "idle", Columns: []string{"idle, registered", "resident", "of it anonymous", fmt.Sprintf("wake-ups in %s", idleFor)}}
	for _, i := range []struct {
		registered int
		idle       idle
	}{{0, m.none}, {slices.Max(registeredWith()), m.most}} {
		t.add(thousands(i.registered), mebibytes(i.idle.memory.resident), mebibytes(i.idle.memory.anonymous), fmt.Sprint(i.idle.wakeUps))
	}
	r.Tables = append(r.Tables, t)
	r.Targets = append(r.Targets,
		target{
			What: "the daemon resident, idle, nobody registered", Target: "under " + mebibytes(targetResident), Is: mebibytes(m.none.memory.resident),
			Missed: m.none.memory.resident >= targetResident,
		},
		target{
			What: fmt.Sprintf("the daemon's wake-ups in %s, nobody and %s registered", idleFor, thousands(slices.Max(registeredWith()))), Target: "0",
			Is: fmt.Sprintf("%d and %d", m.none.wakeUps, m.most.wakeUps), Missed: m.none.wakeUps+m.most.wakeUps > 0,
		})
}

func mebibytes(bytes int64) string { return fmt.Sprintf("%.1f MiB", float64(bytes)/(1<<20)) }
