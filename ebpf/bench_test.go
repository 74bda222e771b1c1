package ebpf

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	cilium "github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/sockwatch/sockwatch/internal/testutil"
)

// BenchmarkHooks tells what each set of hooks costs, as the ratio to nothing attached: of getppid(2), the cheapest system
// call, and of socket, bind, close and unlink together. One iteration goes through all, one after the other, lest something else on
// the machine be counted for one of them alone; what is told is the median. "woken" is with a reader that waits for
// each event, "bind" with none; "ns/bind" is what the kernel says that the programs took, for each bind.
//
//	go test -run '^$' -bench Hooks -benchtime 20x ./ebpf
func BenchmarkHooks(b *testing.B) {
	testutil.Require(b, testutil.Root, testutil.BPF)
	sets := []Hooks{HooksTracepoint, HooksSysExit}
	if err := tryFexit(); err == nil {
		sets = append(sets, HooksFexit)
	}
	path := filepath.Join(testutil.TempDir(b), "s")
	ratios := map[string][]float64{}
	note := func(name string, value float64) { ratios[name] = append(ratios[name], value) }

	for b.Loop() {
		getppid, bind := timeGetppid(), timeBinds(b, path)
		for _, h := range sets {
			tracer := openBench(b, h)
			note(h.String()+"-getppid-x", float64(timeGetppid())/float64(getppid))
			note(h.String()+"-bind-x", float64(timeBinds(b, path))/float64(bind))
			note(h.String()+"-ns/bind", runTime(b, tracer, func() { timeBinds(b, path) }))
			if err := tracer.Close(); err != nil {
				b.Fatal(err)
			}

			tracer = openBench(b, h)
			var reading sync.WaitGroup
			reading.Go(func() {
				for {
					if _, err := tracer.Read(); errors.Is(err, os.ErrClosed) {
						return
					}
				}
			})
			note(h.String()+"-woken-x", float64(timeBinds(b, path))/float64(bind))
			if err := tracer.Close(); err != nil {
				b.Fatal(err)
			}
			reading.Wait()
		}
	}
	b.ReportMetric(0, "ns/op") // of no meaning
	for name, values := range ratios {
		slices.Sort(values)
		b.ReportMetric(values[len(values)/2], name)
	}
}

// BenchmarkOpen is the time from nothing to attached programs, and back.
func BenchmarkOpen(b *testing.B) {
	testutil.Require(b, testutil.Root, testutil.BPF)
	for _, h := range []Hooks{HooksTracepoint, HooksSysExit} {
		b.Run(h.String(), func(b *testing.B) {
			for b.Loop() {
				if err := openBench(b, h).Close(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func openBench(b *testing.B, h Hooks) *Tracer {
	tracer, err := Open(Options{Hooks: h, RingSize: 4 << 20}) // more than a run of timeBinds fills
	if err != nil {
		b.Fatal(err)
	}
	return tracer
}

func timeGetppid() time.Duration {
	begin := time.Now()
	for range 100_000 {
		unix.Getppid()
	}
	return time.Since(begin)
}

const bindsTimed = 1000

func timeBinds(b *testing.B, path string) time.Duration {
	begin := time.Now()
	for range bindsTimed {
		fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			b.Fatal(err)
		}
		if errno := rawBind(fd, path); errno != 0 {
			b.Fatal(fmt.Errorf("bind: %w", errno))
		}
		if err := errors.Join(unix.Close(fd), unix.Unlink(path)); err != nil {
			b.Fatal(err)
		}
	}
	return time.Since(begin)
}

// runTime is the nanoseconds for each bind that the programs run while f makes its binds. The kernel's looking at the clock is
// in it.
func runTime(b *testing.B, tracer *Tracer, f func()) float64 {
	stats, err := cilium.EnableStats(unix.BPF_STATS_RUN_TIME)
	if err != nil {
		b.Fatal(err)
	}
	defer stats.Close()
	total := func() (t time.Duration) {
		for _, program := range tracer.set.collection.Programs {
			stats, err := program.Stats()
			if err != nil {
				b.Fatal(err)
			}
			t += stats.Runtime
		}
		return t
	}
	before := total()
	f()
	return float64(total()-before) / bindsTimed
}
