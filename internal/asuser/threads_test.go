package asuser

import (
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/sockwatch/sockwatch/internal/sys"
	"github.com/sockwatch/sockwatch/internal/testutil"
)

// visits counts for each thread how often it went into Do and came out of it: odd is within.
type visits struct{ sync.Map }

func (v *visits) of(tid int) *atomic.Int64 {
	n, _ := v.LoadOrStore(tid, new(atomic.Int64))
	return n.(*atomic.Int64)
}

// TestNoOtherThread: no thread has credentials that were given to another, whatever the runtime does meanwhile: neither one that other
// goroutines run on, nor one that is made while functions run, nor a process that is started then. Only with a caller that has locked
// its thread is it known before which one gets some, and looked at all the others all the time.
func TestNoOtherThread(t *testing.T) {
	testutil.Require(t, testutil.Root)
	own := asked()
	for _, locked := range []bool{true, false} {
		var (
			within visits
			all    sync.WaitGroup // what ends by itself
			rest   sync.WaitGroup // what goes on until that has
			over   = make(chan struct{})
		)
		for worker := range uint32(6) {
			all.Go(func() {
				for i := range uint32(40) {
					u := User{UID: 1000 + 100*worker + i, GID: i + 1}
					if i%2 == 0 {
						u.Groups = []uint32{i, i + 1}
					}
					if locked {
						runtime.LockOSThread()
						n := within.of(unix.Gettid())
						n.Add(1)
						do(t, u, func() { isAlone(t, u) })
						n.Add(1)
						runtime.UnlockOSThread()
					} else if err := Do(u, func() { isAlone(t, u) }); err != nil {
						t.Error(err)
					}
				}
			})
		}
		for range 2 {
			all.Go(func() {
				for range 3 {
					out, err := testutil.Command(t, "credentials").Output()
					if got := strings.TrimSuffix(string(out), "\n"); got != own || err != nil {
						t.Errorf("a process was started with\n%s\n%v", got, err)
					}
				}
			})
		}
		rest.Go(func() {
			for !isClosed(over) {
				if locked {
					checkThreads(t, own, &within)
				}
				runtime.GC()
			}
		})
		all.Wait()
		close(over)
		rest.Wait()
		if threads := checkThreads(t, own, &within); threads < 6 {
			t.Errorf("only %d threads", threads)
		}
	}
}

// isAlone fails the test unless the calling function has the user's file access, and no goroutine that it starts has.
func isAlone(t *testing.T, u User) {
	tid := unix.Gettid()
	for range 2 {
		if fsuid, err := sys.FSUID(); fsuid != u.UID || err != nil || unix.Gettid() != tid {
			t.Errorf("user %d on thread %d, want %d on %d (%v)", fsuid, unix.Gettid(), u.UID, tid, err)
		}
		blockOthers(t)
	}
}

func isClosed(c chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// checkThreads looks at the credentials of all threads, and tells how many there are. Those that were within Do when they were looked at
// are passed over.
func checkThreads(t *testing.T, own string, within *visits) (threads int) {
	tasks, err := os.ReadDir("/proc/self/task")
	if err != nil {
		t.Error(err)
		return 0
	}
	for _, task := range tasks {
		tid, _ := strconv.Atoi(task.Name())
		n := within.of(tid)
		before := n.Load()
		has := credentials(tid)
		if after := n.Load(); before%2 == 0 && before == after && has != own && has != "" {
			t.Errorf("thread %d (process %d) has\n%s", tid, os.Getpid(), has)
		}
	}
	return len(tasks)
}

// blockOthers has goroutines block in the kernel, so that the runtime needs more threads.
func blockOthers(t *testing.T) {
	var fds [2]int
	if err := unix.Pipe2(fds[:], unix.O_CLOEXEC); err != nil {
		t.Error(err)
		return
	}
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			var b [1]byte
			_, _ = unix.Read(fds[0], b[:])
			if fsuid, err := sys.FSUID(); fsuid != 0 || err != nil {
				t.Errorf("a goroutine of a function is user %d (%v)", fsuid, err)
			}
		})
	}
	unix.Close(fds[1])
	all.Wait()
	unix.Close(fds[0])
}
