package proc

import (
	"os"
	"runtime"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sockwatch/sockwatch/internal/testutil"
)

func TestChildren(t *testing.T) {
	for pid, want := range map[int][]int{
		26231: {26232, 26233, 26250}, // by task/*/children
		26232: nil,                   // by parents
	} {
		got, err := fixture.Children(pid)
		must(t, err)
		slices.Sort(got)
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%d (-want +got):\n%s", pid, diff)
		}
	}
	got, err := fixture.childrenByParent(26231)
	must(t, err)
	slices.Sort(got)
	if diff := cmp.Diff([]int{26232, 26233}, got); diff != "" {
		t.Errorf("by parents (-want +got):\n%s", diff)
	}
}

func TestChildrenLive(t *testing.T) {
	want := []int{zombie(t)}
	for range 4 {
		pids := make(chan int)
		go func() {
			// The kernel keeps children by the thread that forked.
			runtime.LockOSThread()
			defer runtime.UnlockOSThread()
			defer close(pids)
			child := testutil.Start(t, testutil.Command(t, "sockets"))
			child.Expect("ready")
			pids <- child.PID()
		}()
		if pid, ok := <-pids; ok {
			want = append(want, pid)
		}
	}
	slices.Sort(want)
	for name, list := range map[string]func(int) ([]int, error){
		"Children": FS("").Children, "childrenByParent": FS("").childrenByParent,
	} {
		got, err := list(os.Getpid())
		must(t, err)
		slices.Sort(got)
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

func FuzzInts(f *testing.F) {
	f.Add([]byte("1 2 3 "))
	f.Add([]byte("\t7\t1\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if ints, err := parseInts(b); err != nil && ints != nil {
			t.Errorf("%v beside %v", ints, err)
		}
	})
}

func BenchmarkChildren(b *testing.B) {
	for name, list := range map[string]func(int) ([]int, error){
		"file": FS("").Children, "scan": FS("").childrenByParent,
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := list(os.Getpid()); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
