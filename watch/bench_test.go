package watch

import (
	"fmt"
	"slices"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sockwatch/sockwatch/internal/testutil"
	"github.com/sockwatch/sockwatch/pidfd"
)

// BenchmarkExit kills one process after the other, with that many watched: from the exit event to the file's being gone, and
// from the kill.
func BenchmarkExit(b *testing.B) {
	for _, watched := range []int{1, 1000} {
		b.Run(strconv.Itoa(watched)+" watched", func(b *testing.B) {
			w, dir := newWatched(b), testutil.TempDir(b)
			_, others := crowd(b, watched-1)
			for i, p := range others {
				w.addProcess(p, OwnerOptions{Paths: []string{dir + "/other" + strconv.Itoa(i)}})
			}
			_, victims := crowd(b, b.N)
			var afterExit, afterKill []time.Duration
			b.ResetTimer()
			for i, p := range victims {
				path := dir + "/" + strconv.Itoa(i)
				fd := listenFD(b, path)
				o := w.addProcess(p, OwnerOptions{Paths: []string{path}})
				unix.Close(fd)
				killed := time.Now()
				if err := p.Signal(unix.SIGKILL); err != nil {
					b.Fatal(err)
				}
				<-o.Settled()
				e := w.outcome(path)
				afterExit, afterKill = append(afterExit, e.AfterExit), append(afterKill, e.Time.Sub(killed))
			}
			b.StopTimer()
			for what, ds := range map[string][]time.Duration{"exit": afterExit, "kill": afterKill} {
				slices.Sort(ds)
				b.ReportMetric(float64(ds[len(ds)/2])/1e3, "µs-"+what+"-p50")
				b.ReportMetric(float64(ds[len(ds)*99/100])/1e3, "µs-"+what+"-p99")
			}
		})
	}
}

// BenchmarkClaim claims what is there, for an owner that has that many claims already.
func BenchmarkClaim(b *testing.B) {
	for _, claims := range []int{0, 10000} {
		b.Run(strconv.Itoa(claims)+" claims", func(b *testing.B) {
			w, dir := newWatched(b), testutil.TempDir(b)
			_, processes := crowd(b, 1)
			o := w.addProcess(processes[0], OwnerOptions{})
			for i := range claims {
				mustClaim(b, o, dir+"/absent"+strconv.Itoa(i))
			}
			leaveAlive(b, dir+"/a")
			for b.Loop() {
				if !mustClaim(b, o, dir+"/a").Release() {
					b.Fatal("not released")
				}
			}
		})
	}
}

// BenchmarkAdd begins and ends watching a process.
func BenchmarkAdd(b *testing.B) {
	w := newWatched(b)
	_, processes := crowd(b, 1)
	pid := processes[0].PID()
	processes[0].Close()
	b.ReportAllocs()
	for b.Loop() {
		p, err := pidfd.Open(pid)
		if err != nil {
			b.Fatal(err)
		}
		_ = w.addProcess(p, OwnerOptions{}).Release()
	}
}

// BenchmarkBindspace has each of that many owners of one bindspace bind there, and finds out whose file is whose.
func BenchmarkBindspace(b *testing.B) {
	for _, n := range []int{1, 10, 100, 1000} {
		b.Run(fmt.Sprint(n, " owners"), func(b *testing.B) {
			p := startPuppet(b)
			for range b.N {
				b.StopTimer()
				w, dir := newWatched(b), testutil.TempDir(b)
				children := p.hatch(n, dir+"/", "stay")
				for _, child := range children {
					w.addProcess(duplicate(b, child), OwnerOptions{Bindspaces: []string{dir}})
				}
				b.StartTimer()
				goOn(b, children...)
				for range n {
					w.next(func(e Event) bool { return e.Kind == KindClaimed })
				}
				b.StopTimer()
				w.Close()
				for _, child := range children {
					kill(b, child)
					child.Close()
				}
				p.do("reapall")
			}
			b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(b.N*n), "µs/bind")
		})
	}
}
