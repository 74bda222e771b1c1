package spawn

import (
	"bufio"
	"bytes"
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/sockwatch/sockwatch/internal/testutil"
	"github.com/sockwatch/sockwatch/notify"
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
// of them is lost, in whatever language it has reported.
func TestReportAndDie(t *testing.T) {
	const source = "../test/report/report"
	t.Run("C", func(t *testing.T) {
		testutil.Require(t, testutil.Program("cc"))
		program := testutil.TempDir(t) + "/report"
		if out, err := exec.Command("cc", "-o", program, source+".c").CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		testReportAndDie(t, 300, program)
	})
	t.Run("Python", func(t *testing.T) {
		testReportAndDie(t, 300, python(t), "-SI", source+".py") // without what takes long to start
	})
	t.Run("shell", func(t *testing.T) {
		testutil.Require(t, testutil.Program("perl"))
		dir := testutil.TempDir(t)
		self, err := os.Executable()
		if err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(self, dir+"/"+standIn); err != nil {
			t.Fatal(err)
		}
		t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
		testReportAndDie(t, 50, "sh", source+".sh") // each starts this binary
	})
}

var long = flag.Bool("long", false, "have 10,000 children of each language report and die, which takes minutes, in place of some hundred")

func testReportAndDie(t *testing.T, n int, program ...string) {
	t.Helper()
	if *long {
		n = 10_000
	}
	w := newWatcher(t)
	dir := testutil.TempDir(t)
	events := w.Subscribe(8 * n)
	defer events.Close()
	cmd := exec.Command("sh", append([]string{"testdata/many.sh", dir, strconv.Itoa(n)}, program...)...)
	var said bytes.Buffer
	cmd.Stderr = &said
	c, err := Start(t.Context(), w, cmd, watch.OwnerOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Wait(); err != nil {
		t.Fatalf("%v\n%s", err, said.Bytes())
	}
	w.SettleEnded()
	events.Close()
	removed := map[string]int{}
	for e := range events.C() {
		if e.Kind != watch.KindOutcome {
			continue
		}
		if e.Result.Outcome != reap.OutcomeRemoved || e.Source != watch.SourceNotify {
			t.Errorf("%+v", e)
		}
		removed[e.Result.Path]++
	}
	for i := range n {
		if path := dir + "/" + strconv.Itoa(i); removed[path] != 1 {
			t.Errorf("%s has %d outcomes", path, removed[path])
		}
	}
	if left := list(t, dir); len(left) > 0 {
		t.Errorf("%d of %d are left, %s first", len(left), n, left[0])
	}
}

// standIn is the name by which this test binary does what "sockwatch notify BIND=PATH" does: it reports for its parent.
const standIn = "sockwatch"

func init() {
	if filepath.Base(os.Args[0]) != standIn {
		return
	}
	if err := notify.Send(fmt.Sprintf("PID=%d\n%s\n", os.Getppid(), os.Args[2])); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}
