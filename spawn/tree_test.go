package spawn

import (
	"bufio"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/sockwatch/sockwatch/internal/testutil"
	"github.com/sockwatch/sockwatch/reap"
	"github.com/sockwatch/sockwatch/watch"
)

// Root, child and grandchild bind in one directory and sleep. Each one's file goes at its own death, whoever dies first, by
// whatever way the watcher has learnt of it.
func TestDescendants(t *testing.T) {
	for name, how := range map[string]struct {
		report, bindspace bool
		options           watch.Options
		needs             []testutil.Feature
	}{
		"notify":   {report: true},
		"inotify":  {bindspace: true, options: watch.Options{InotifyOnly: true}},
		"fanotify": {bindspace: true, needs: []testutil.Feature{testutil.Root}},
		"all":      {report: true, bindspace: true},
	} {
		for _, order := range [][]int{{0, 1, 2}, {2, 1, 0}, {1, 2, 0}} { // 2 is the root
			t.Run(name+strconv.Itoa(order[0])+"first", func(t *testing.T) {
				testutil.Require(t, how.needs...)
				testDescendants(t, how.options, how.bindspace, how.report, order)
			})
		}
	}
}

func testDescendants(t *testing.T, options watch.Options, bindspace, report bool, order []int) {
	w, err := watch.New(options)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.Close() })
	dir := testutil.TempDir(t)
	events := w.Subscribe(256)
	defer events.Close()

	args := []string{"testdata/tree.py", dir, "2"}
	if report {
		args = append(args, "report")
	}
	var o watch.OwnerOptions
	if bindspace {
		o.Bindspaces = []string{dir}
	}
	cmd := exec.Command(python(t), args...)
	said, stdout, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer said.Close()
	cmd.Stdout, cmd.Stderr = stdout, os.Stderr
	c, err := Start(t.Context(), w, cmd, o)
	stdout.Close()
	if err != nil {
		t.Fatal(err)
	}
	defer c.HardKill(context.Background(), KillOptions{TerminateAfter: -1, Tree: true})
	pids := map[int]int{}
	lines := bufio.NewScanner(said)
	for len(pids) < 3 && lines.Scan() {
		depth, pid, err := parseLine(lines.Text())
		if err != nil {
			t.Fatal(err)
		}
		n, err := strconv.Atoi(depth)
		if err != nil {
			t.Fatal(err)
		}
		pids[n] = pid
	}
	claimed := map[string]bool{}
	for len(claimed) < 3 {
		if e := <-events.C(); e.Kind == watch.KindClaimed {
			claimed[e.Result.Path] = true
		}
	}

	left := []string{"0", "1", "2"}
	for _, victim := range order {
		signalPID(t, pids[victim], unix.SIGKILL)
		for {
			e := <-events.C()
			if e.Kind != watch.KindOutcome {
				continue
			}
			if e.Result.Outcome != reap.OutcomeRemoved || e.Result.Path != filepath.Join(dir, strconv.Itoa(victim)) || e.Owner.PID != pids[victim] {
				t.Fatalf("at the death of %d (process %d): %+v", victim, pids[victim], e)
			}
			break
		}
		left = slices.DeleteFunc(left, func(s string) bool { return s == strconv.Itoa(victim) })
		if got := list(t, dir); !slices.Equal(got, left) {
			t.Fatalf("after the death of %d there is %q, want %q", victim, got, left)
		}
	}
}

func list(t *testing.T, dir string) (names []string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

// A child that is SIGKILLed immediately after its report is a process that is dead, and mostly reaped, when the report is read. Not one
// of them is lost.
func TestReportAndDie(t *testing.T) {
	const n = 10_000
	w := newWatcher(t)
	dir := testutil.TempDir(t)
	events := w.Subscribe(8 * n)
	defer events.Close()
	c, err := Start(t.Context(), w, exec.Command(python(t), "testdata/reporter.py", dir, strconv.Itoa(n)), watch.OwnerOptions{})
	if err != nil {
		t.Fatal(err)
	}
	removed := 0
	for removed < n {
		if e := <-events.C(); e.Kind == watch.KindOutcome {
			if e.Result.Outcome != reap.OutcomeRemoved || e.Source != watch.SourceNotify {
				t.Fatalf("%+v", e)
			}
			removed++
		}
	}
	if err := c.Wait(); err != nil {
		t.Fatal(err)
	}
	if left := list(t, dir); len(left) > 0 {
		t.Errorf("left: %q", left)
	}
}
