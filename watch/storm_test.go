package watch

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sockwatch/sockwatch/internal/testutil"
	"github.com/sockwatch/sockwatch/pidfd"
	"github.com/sockwatch/sockwatch/reap"
)

func init() { helpers["storm"] = storm }

// storm is a process that is told to begin, and then binds and closes sockets as fast as it can: PREFIX N [keep], -1 is for ever. Then it
// says so, and stays.
func storm() {
	_, _ = fmt.Scanln()
	prefix := os.Args[1]
	n, err := strconv.Atoi(os.Args[2])
	must(err)
	for i := 0; i != n; i++ {
		path := prefix + strconv.Itoa(i)
		fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		must(err)
		must(unix.Bind(fd, &unix.SockaddrUnix{Name: path}))
		must(unix.Close(fd))
		if len(os.Args) < 4 {
			must(unix.Unlink(path))
		}
	}
	fmt.Println("over")
	_, _ = io.Copy(io.Discard, os.Stdin)
}

// TestBindStorm has a process of the tree bind and close 50,000 sockets in a bindspace. What it removes itself costs nothing when it
// is gone; of what it leaves nothing is lost.
func TestBindStorm(t *testing.T) {
	const n = 50_000
	for _, keep := range []bool{false, true} {
		t.Run(map[bool]string{false: "unlinked", true: "left"}[keep], func(t *testing.T) {
			w, dir := newWatched(t), testutil.TempDir(t)
			before := heapInUse()
			args := []string{dir + "/", strconv.Itoa(n)}
			if keep {
				args = append(args, "keep")
			}
			child := testutil.Start(t, testutil.Command(t, "storm", args...))
			o := w.add(child.PID(), OwnerOptions{Bindspaces: []string{dir}})
			child.Say("")
			child.Expect("over")
			w.settleLoop()
			if keep {
				if got := len(o.Claims()); got != n {
					t.Errorf("%d claims of %d", got, n)
				}
			} else {
				if got := len(o.Claims()); got != 0 {
					t.Errorf("%d claims of files that are gone", got)
				}
				if more := int64(heapInUse()) - int64(before); more > 8<<20 {
					t.Errorf("%d KiB more heap", more>>10)
				}
			}
			child.Kill()
			waitSettled(t, o)
			if left := count(t, dir); left > 0 {
				t.Errorf("%d files of %d are left", left, n)
			}
			w.empty()
		})
	}
}

// BenchmarkStorm kills owners of a file each, in turn while nothing else happens and while a process makes and removes sock-files in a
// bindspace as fast as it can: from the exit event to the file's being gone.
func BenchmarkStorm(b *testing.B) {
	for _, inotify := range []bool{false, true} {
		b.Run(map[bool]string{false: "default", true: "inotify"}[inotify], func(b *testing.B) {
			w, err := New(Options{InotifyOnly: inotify})
			if err != nil {
				b.Fatal(err)
			}
			b.Cleanup(func() { w.Close() })
			dir, space := testutil.TempDir(b), testutil.TempDir(b)
			cmd := testutil.Command(b, "storm", space+"/", "-1")
			cmd.Stdin = strings.NewReader("\n")
			if err := cmd.Start(); err != nil {
				b.Fatal(err)
			}
			p, err := pidfd.Open(cmd.Process.Pid)
			if err != nil {
				b.Fatal(err)
			}
			stormy, err := w.Add(p, OwnerOptions{Bindspaces: []string{space}})
			if err != nil {
				b.Fatal(err)
			}
			b.Cleanup(func() { end(b, cmd, stormy) })
			_, victims := crowd(b, 2*b.N)
			took := map[bool][]time.Duration{}
			for i, p := range victims {
				storms := i%2 == 0
				signal := unix.SIGSTOP
				if storms {
					signal = unix.SIGCONT
				}
				if err := cmd.Process.Signal(signal); err != nil {
					b.Fatal(err)
				}
				if !storms {
					w.catchUp()
				}
				path := dir + "/" + strconv.Itoa(i)
				events := w.Subscribe(64)
				fd := listenFD(b, path)
				o, err := w.Add(p, OwnerOptions{Paths: []string{path}})
				if err != nil {
					b.Fatal(err)
				}
				unix.Close(fd)
				if err := p.Signal(unix.SIGKILL); err != nil {
					b.Fatal(err)
				}
				<-o.Settled()
				events.Close()
				for e := range events.C() {
					if e.Kind == KindOutcome && e.Result.Path == path && e.Result.Outcome == reap.OutcomeRemoved {
						took[storms] = append(took[storms], e.AfterExit)
					}
				}
			}
			for storms, ds := range took {
				slices.Sort(ds)
				b.ReportMetric(float64(ds[len(ds)/2])/1e3, map[bool]string{true: "µs-storm-p50", false: "µs-quiet-p50"}[storms])
			}
			b.ReportMetric(float64(took[true][len(took[true])/2])/float64(took[false][len(took[false])/2]), "storm/quiet")
		})
	}
}

func end(b *testing.B, cmd *exec.Cmd, o *Owner) {
	b.Helper()
	if err := cmd.Process.Kill(); err != nil {
		b.Fatal(err)
	}
	_ = cmd.Wait()
	<-o.Settled()
}
