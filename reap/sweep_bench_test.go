package reap

import (
	"testing"

	"github.com/sockwatch/sockwatch/internal/testutil"
)

// BenchmarkSweep removes 100,000 dead sock-files in each iteration: take -benchtime=3x. The measure is ns/file, to be compared
// with "floor sweep" of bench/floor.c.
func BenchmarkSweep(b *testing.B) {
	const files = 100_000
	for _, on := range []testutil.Feature{testutil.Ext4, testutil.Tmpfs} {
		b.Run(on.String(), func(b *testing.B) {
			dir := testutil.Dir(b, on)
			b.ReportAllocs()
			for b.Loop() {
				b.StopTimer()
				leaveManyDead(b, dir, files)
				b.StartTimer()
				n := 0
				for r := range Sweep(b.Context(), SweepOptions{}, dir) {
					if r.Outcome == OutcomeRemoved {
						n++
					}
				}
				if n != files {
					b.Fatalf("%d of %d removed", n, files)
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*files), "ns/file")
		})
	}
}

// BenchmarkSweepLive looks at 10,000 live sock-files in each iteration.
func BenchmarkSweepLive(b *testing.B) {
	const files = 10_000
	dir := testutil.Dir(b, testutil.Tmpfs)
	for i := range files {
		bindSocket(b, dir+"/"+absentName()[len(privatePrefix):], i%2+1)
	}
	b.ReportAllocs()
	for b.Loop() {
		n := 0
		for r := range Sweep(b.Context(), SweepOptions{}, dir) {
			if r.Outcome == OutcomeAlive {
				n++
			}
		}
		if n != files {
			b.Fatalf("%d of %d alive", n, files)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*files), "ns/file")
}

// BenchmarkFindLayers reads the mount tables of all processes, as happens once a second while never seen files are removed.
func BenchmarkFindLayers(b *testing.B) {
	for b.Loop() {
		findLayers()
	}
}
