package records

import (
	"bufio"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sockwatch/sockwatch/internal/proc"
	"github.com/sockwatch/sockwatch/internal/testutil"
	"github.com/sockwatch/sockwatch/pidfd"
)

const (
	killedWriters = 3 // goroutines of the process that is killed, each with an owner of its own
	killedSteps   = 5 // the last of which deletes
)

// killedRecord is what a writer puts at a step; nil when it deletes.
func killedRecord(boot string, writer, step int) *Record {
	if step%killedSteps == 0 {
		return nil
	}
	r := &Record{
		Process: pidfd.Identity{PID: writer + 1, Inode: 1, BootID: boot},
		Name:    strconv.Itoa(step),
	}
	for i := range step % 7 * 30 { // up to three pages
		r.Claims = append(r.Claims, Claim{Path: fmt.Sprintf("/run/%d/%d/%d.sock", writer, step, i), Source: "notify"})
	}
	return r
}

func killedID(writer int) string { return fmt.Sprintf("%d:1@0", writer+1) }

// helperWrite puts and deletes without end, from step 1, and says what it has done.
func helperWrite() {
	boot, err := proc.FS("").BootID()
	if err != nil {
		fmt.Println(err)
		return
	}
	s, err := Open(os.Args[1])
	if err != nil {
		fmt.Println(err)
		return
	}
	var writers sync.WaitGroup
	for w := range killedWriters {
		writers.Go(func() {
			for step := 1; ; step++ {
				var err error
				if r := killedRecord(boot, w, step); r != nil {
					err = s.Put(killedID(w), *r)
				} else {
					err = s.Delete(killedID(w))
				}
				if err != nil {
					fmt.Println(err)
					return
				}
				fmt.Println(w, step)
			}
		})
	}
	writers.Wait()
}

// TestKill kills a process at random instants while it puts and deletes. Of each owner there must be what was done last, or
// what was being done.
func TestKill(t *testing.T) {
	onBoth(t, func(t *testing.T, dir string) {
		boot, err := proc.FS("").BootID()
		must(t, err)
		interrupted := 0
		for range 100 {
			last := killOne(t, dir)
			if names, err := filepath.Glob(filepath.Join(dir, ".*")); err != nil {
				t.Fatal(err)
			} else if len(names) > 0 {
				interrupted++
			}
			s := open(t, dir)
			got, errs := all(s)
			if len(errs) > 0 {
				t.Fatalf("after %v: %q", last, errs)
			}
			want := []string{}
			for w, step := range last {
				var is *Record
				if r, ok := got[killedID(w)]; ok {
					is = &r
					name, err := fileName(killedID(w))
					must(t, err)
					want = append(want, name)
				}
				if !cmp.Equal(is, killedRecord(boot, w, step)) && !cmp.Equal(is, killedRecord(boot, w, step+1)) {
					t.Fatalf("writer %d had done step %d, and there is %v", w, step, is)
				}
				must(t, s.Delete(killedID(w)))
			}
			if len(got) != len(want) {
				t.Fatalf("records of nobody: %v", got)
			}
			wantNames(t, dir)
			must(t, s.Close())
		}
		t.Logf("%d of 100 were killed during a write", interrupted)
	})
}

// killOne returns the last step that each writer was known to have done. The process goes on while it is listened to, so it is
// killed anywhere.
func killOne(t *testing.T, dir string) [killedWriters]int {
	t.Helper()
	cmd := testutil.Command(t, "write", dir)
	out, w, err := os.Pipe()
	must(t, err)
	defer out.Close()
	cmd.Stdout = w
	err = cmd.Start()
	w.Close()
	must(t, err)
	var last [killedWriters]int
	lines := bufio.NewScanner(out)
	after := rand.IntN(60)
	for n := 0; ; n++ {
		if n == after {
			must(t, cmd.Process.Kill())
		}
		if !lines.Scan() {
			break
		}
		var writer, step int
		if _, err := fmt.Sscanf(lines.Text(), "%d %d", &writer, &step); err != nil || step != last[writer]+1 {
			t.Fatalf("after %v it said %q", last, lines.Text())
		}
		last[writer] = step
	}
	_ = cmd.Wait() // tells of the signal
	return last
}
