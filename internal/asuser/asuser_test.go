package asuser

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/sockwatch/sockwatch/internal/testutil"
)

func newRunner(t testing.TB) *Runner {
	t.Helper()
	r := New()
	t.Cleanup(r.Close)
	return r
}

// do runs f, which must be run.
func do(t testing.TB, r *Runner, u User, f func()) {
	t.Helper()
	ran := false
	if err := r.Do(u, func() { ran = true; f() }); err != nil || !ran {
		t.Errorf("%+v: ran %v, %v", u, ran, err)
	}
}

// credentials are the lines of /proc/PID/status that a thread has credentials of its own in.
func credentials(t testing.TB, tid int) string {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/self/task/%d/status", tid))
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH) {
		return "" // it has ended
	}
	if err != nil {
		t.Error(err)
	}
	var lines []string
	for line := range strings.Lines(string(status)) {
		for _, key := range []string{"Uid:", "Gid:", "Groups:", "CapInh:", "CapPrm:", "CapEff:", "CapAmb:"} {
			if strings.HasPrefix(line, key) {
				lines = append(lines, strings.Join(strings.Fields(line), " "))
			}
		}
	}
	return strings.Join(lines, "\n")
}

// asked has the credentials of the calling thread read by another.
func asked(t testing.TB) string {
	t.Helper()
	tid := unix.Gettid()
	answer := make(chan string)
	go func() { answer <- credentials(t, tid) }()
	return <-answer
}

const noCapabilities = "\nCapInh: 0000000000000000\nCapPrm: 0000000000000000\nCapEff: 0000000000000000\nCapAmb: 0000000000000000"

func TestDo(t *testing.T) {
	testutil.Require(t, testutil.Root)
	r := newRunner(t)
	var got, again string
	var first, second int
	u := User{UID: 65534, GID: 65533, Groups: []uint32{300, 100, 200}}
	do(t, r, u, func() { got, first = asked(t), unix.Gettid() })
	do(t, r, u, func() { again, second = asked(t), unix.Gettid() })
	if want := "Uid: 0 0 0 65534\nGid: 0 0 0 65533\nGroups: 100 200 300" + noCapabilities; got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	if again != got || first != second {
		t.Errorf("then, on thread %d and not %d,\n%s", second, first, again)
	}
	for _, u := range []User{{UID: 65534, GID: 65533}, {UID: 65534, GID: 1}, {UID: 1, GID: 1}} {
		do(t, r, u, func() { got = asked(t) })
		if want := fmt.Sprintf("Uid: 0 0 0 %d\nGid: 0 0 0 %d\nGroups:", u.UID, u.GID) + noCapabilities; got != want {
			t.Errorf("got\n%s\nwant\n%s", got, want)
		}
	}
}

// TestFiles is what it is for.
func TestFiles(t *testing.T) {
	testutil.Require(t, testutil.Root)
	dir := testutil.TempDir(t)
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(os.Chmod(dir, 0o755))
	closed, open := filepath.Join(dir, "closed"), filepath.Join(dir, "open")
	must(os.WriteFile(closed, nil, 0o600))
	must(os.Mkdir(open, 0o700))
	must(os.Chmod(open, 0o770)) // whatever the umask
	must(os.Chown(open, 0, 100))
	umask := unix.Umask(0o027)
	defer unix.Umask(umask)

	r := newRunner(t)
	try := func(u User) (read, write error) {
		do(t, r, u, func() {
			_, read = os.ReadFile(closed)
			write = os.WriteFile(filepath.Join(open, "f"), nil, 0o666)
		})
		return read, write
	}
	if read, write := try(User{UID: 65534, GID: 65534, Groups: []uint32{99}}); !errors.Is(read, fs.ErrPermission) || !errors.Is(write, fs.ErrPermission) {
		t.Errorf("read %v, write %v", read, write)
	}
	if read, write := try(User{UID: 65534, GID: 65534, Groups: []uint32{99, 100}}); !errors.Is(read, fs.ErrPermission) || write != nil {
		t.Errorf("with the group: read %v, write %v", read, write)
	}
	var st unix.Stat_t
	must(unix.Stat(filepath.Join(open, "f"), &st))
	if st.Uid != 65534 || st.Gid != 65534 || st.Mode&0o777 != 0o640 {
		t.Errorf("made a file of %d:%d, mode %o", st.Uid, st.Gid, st.Mode)
	}
}

// TestRefused: no function runs with credentials other than those that were asked for.
func TestRefused(t *testing.T) {
	testutil.Require(t, testutil.Root)
	r := newRunner(t)
	tooMany := make([]uint32, 65537) // NGROUPS_MAX and one
	for _, u := range []User{
		{UID: 1<<32 - 1, GID: 1},
		{UID: 1, GID: 1<<32 - 1},
		{UID: 1, GID: 1, Groups: []uint32{1<<32 - 1}},
		{UID: 1, GID: 1, Groups: tooMany},
	} {
		for range 2 {
			err := r.Do(u, func() { t.Errorf("ran as %d:%d", u.UID, u.GID) })
			if err == nil {
				t.Errorf("%d:%d: no error", u.UID, u.GID)
			}
		}
	}
	if len(r.threads) != 0 {
		t.Errorf("%d threads are kept", len(r.threads))
	}
}

// TestItself: what needs no other credentials needs no thread.
func TestItself(t *testing.T) {
	r := newRunner(t)
	uid := uint32(os.Geteuid())
	do(t, r, User{UID: uid, GID: 12345}, func() {})
	if uid != 0 {
		for _, other := range []uint32{0, uid + 1} {
			if err := r.Do(User{UID: other}, func() { t.Error("ran") }); !errors.Is(err, fs.ErrPermission) {
				t.Errorf("user %d: %v, want %v", other, err, fs.ErrPermission)
			}
		}
	}
	if len(r.threads) != 0 {
		t.Errorf("%d threads were made", len(r.threads))
	}
}

func TestClose(t *testing.T) {
	testutil.Require(t, testutil.Root)
	r := New()
	u := User{UID: 65534, GID: 65534}
	do(t, r, u, func() { r.Close() })
	if err := r.Do(u, func() { t.Error("ran") }); !errors.Is(err, ErrClosed) {
		t.Errorf("%v, want %v", err, ErrClosed)
	}
	r.Close()
}

// TestThreadsAreKept for the users that came last.
func TestThreadsAreKept(t *testing.T) {
	testutil.Require(t, testutil.Root)
	r := newRunner(t)
	on := func(uid uint32) (tid int) {
		do(t, r, User{UID: uid, GID: uid}, func() { tid = unix.Gettid() })
		return tid
	}
	kept := on(1000)
	for uid := range uint32(3 * maxIdle) {
		on(2000 + uid)
		if now := on(1000); now != kept {
			t.Fatalf("thread %d became %d", kept, now)
		}
		if len(r.threads) > maxIdle {
			t.Fatalf("%d threads are kept", len(r.threads))
		}
	}

	// More than that, while all work.
	const users = 2 * maxIdle
	var working, all sync.WaitGroup
	working.Add(users)
	for uid := range uint32(users) {
		all.Go(func() {
			do(t, r, User{UID: 3000 + uid}, func() {
				working.Done()
				working.Wait()
			})
		})
	}
	all.Wait()
	if len(r.threads) != maxIdle {
		t.Errorf("%d threads are kept, want %d", len(r.threads), maxIdle)
	}
}

// TestOneAfterTheOther: two functions never run on one thread at once, nor for one user.
func TestOneAfterTheOther(t *testing.T) {
	testutil.Require(t, testutil.Root)
	r := newRunner(t)
	var all sync.WaitGroup
	for uid := range uint32(3) {
		var inside atomic.Int32
		for range 8 {
			all.Go(func() {
				for range 100 {
					do(t, r, User{UID: 1 + uid, GID: 1}, func() {
						if inside.Add(1) != 1 {
							t.Error("two at once")
						}
						if got, err := unix.SetfsuidRetUid(-1); uint32(got) != 1+uid || err != nil {
							t.Errorf("user %d, want %d (%v)", got, 1+uid, err)
						}
						inside.Add(-1)
					})
				}
			})
		}
	}
	all.Wait()
}

// TestNoOtherThread: neither a goroutine that others start nor a thread that the runtime makes meanwhile gets credentials that were given
// to a thread, the first one of the process least of all.
func TestNoOtherThread(t *testing.T) {
	testutil.Require(t, testutil.Root)
	own := asked(t)
	r := newRunner(t)
	var mu sync.Mutex
	given := map[int]bool{} // the threads that functions ran on
	check := func() {
		mu.Lock()
		defer mu.Unlock()
		tasks, err := os.ReadDir("/proc/self/task")
		if err != nil {
			t.Error(err)
			return
		}
		for _, task := range tasks {
			tid, _ := strconv.Atoi(task.Name())
			if c := credentials(t, tid); c != "" && c != own && !given[tid] {
				t.Errorf("thread %d (process %d) has\n%s", tid, unix.Getpid(), c)
			}
		}
	}
	// Each function has others block in the kernel, so that the runtime needs new threads while it runs.
	blocked := func() {
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
				if uid, err := unix.SetfsuidRetUid(-1); uid != 0 || err != nil {
					t.Errorf("a goroutine of a function is user %d (%v)", uid, err)
				}
			})
		}
		unix.Close(fds[1])
		all.Wait()
		unix.Close(fds[0])
	}
	var all sync.WaitGroup
	for worker := range uint32(4) {
		all.Go(func() {
			for i := range uint32(60) {
				do(t, r, User{UID: 1000 + 100*worker + i%20, GID: i + 1, Groups: []uint32{i}}, func() {
					mu.Lock()
					given[unix.Gettid()] = true
					mu.Unlock()
					if unix.Gettid() == unix.Getpid() {
						t.Error("on the first thread")
					}
					blocked()
				})
			}
		})
	}
	all.Wait()
	// A thread that was given credentials is in that list for good, also when the kernel has given its number to another.
	if len(given) < 60 {
		t.Errorf("only %d threads", len(given))
	}
	check()
}

func BenchmarkDo(b *testing.B) {
	testutil.Require(b, testutil.Root)
	r := newRunner(b)
	b.Run("thread kept", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			do(b, r, User{UID: 65534, GID: 65534, Groups: []uint32{1, 2, 3}}, func() {})
		}
	})
	b.Run("thread made", func(b *testing.B) {
		uid := uint32(1)
		for b.Loop() {
			do(b, r, User{UID: uid, GID: 1}, func() {})
			uid++
		}
	})
}
