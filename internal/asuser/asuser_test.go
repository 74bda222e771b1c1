package asuser

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/sockwatch/sockwatch/internal/sys"
	"github.com/sockwatch/sockwatch/internal/testutil"
)

// do runs f, which must be run, and sees to it that the thread is then what it was.
func do(t testing.TB, u User, f func()) {
	t.Helper()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	before := credentials(unix.Gettid())
	ran := false
	if err := Do(u, func() { ran = true; f() }); err != nil || !ran {
		t.Errorf("%+v: ran %v, %v", u, ran, err)
	}
	if after := credentials(unix.Gettid()); after != before {
		t.Errorf("after %+v the thread has\n%s\nand had\n%s", u, after, before)
	}
}

// credentials are the lines of /proc/PID/status that a thread of this process has credentials of its own in; none if it has ended.
func credentials(tid int) string {
	status, err := os.ReadFile(fmt.Sprintf("/proc/self/task/%d/status", tid))
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH) {
		return ""
	}
	if err != nil {
		return err.Error()
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

// sayCredentials is a process that says which it has.
func sayCredentials() { fmt.Println(credentials(os.Getpid())) }

// asked has the credentials of the calling thread read by another.
func asked() string {
	tid := unix.Gettid()
	answer := make(chan string)
	go func() { answer <- credentials(tid) }()
	return <-answer
}

// expected are the credentials of a function for u, where the process has own: groups are in ascending order.
func expected(own string, u User) string {
	groups := strings.TrimSuffix("Groups: "+strings.Trim(fmt.Sprint(u.Groups), "[]"), " ")
	_, capabilities, _ := strings.Cut(own, "\nCapInh:")
	inheritable, rest, _ := strings.Cut(capabilities, "\nCapPrm:")
	permitted, ambient, _ := strings.Cut(rest, "\nCapEff:")
	_, ambient, _ = strings.Cut(ambient, "\nCapAmb:")
	return fmt.Sprintf("Uid: 0 0 0 %d\nGid: 0 0 0 %d\n%s\nCapInh:%s\nCapPrm:%s\nCapEff: %016x\nCapAmb:%s",
		u.UID, u.GID, groups, inheritable, permitted, 0, ambient)
}

func TestDo(t *testing.T) {
	testutil.Require(t, testutil.Root)
	own := asked()
	same, err := sys.ThreadGroups()
	if err != nil {
		t.Fatal(err)
	}
	for _, u := range []User{
		{UID: 65534, GID: 65533, Groups: []uint32{100, 200, 300}},
		{UID: 65534, GID: 65533},
		{UID: 65534, GID: 1},
		{UID: 1, GID: 1, Groups: same},
		{UID: 1, GID: 0},
		{UID: 1<<32 - 2, GID: 1<<32 - 2, Groups: []uint32{1<<32 - 2}},
	} {
		for range 2 {
			do(t, u, func() {
				if got, want := asked(), expected(own, u); got != want {
					t.Errorf("got\n%s\nwant\n%s", got, want)
				}
			})
		}
	}
	do(t, User{UID: 1, GID: 1, Groups: []uint32{30, 10, 20, 10}}, func() {
		if got, want := asked(), expected(own, User{UID: 1, GID: 1, Groups: []uint32{10, 10, 20, 30}}); got != want {
			t.Errorf("got\n%s\nwant\n%s", got, want)
		}
	})
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

	try := func(u User) (read, write, own error) {
		do(t, u, func() {
			_, read = os.ReadFile(closed)
			write = os.WriteFile(filepath.Join(open, "f"), nil, 0o666)
			own = os.Chown(closed, 1, 1)
		})
		return read, write, own
	}
	read, write, own := try(User{UID: 65534, GID: 65534, Groups: []uint32{99}})
	if !errors.Is(read, fs.ErrPermission) || !errors.Is(write, fs.ErrPermission) || !errors.Is(own, fs.ErrPermission) {
		t.Errorf("read %v, write %v, chown %v", read, write, own)
	}
	read, write, own = try(User{UID: 65534, GID: 65534, Groups: []uint32{99, 100}})
	if !errors.Is(read, fs.ErrPermission) || write != nil || !errors.Is(own, fs.ErrPermission) {
		t.Errorf("with the group: read %v, write %v, chown %v", read, write, own)
	}
	var st unix.Stat_t
	must(unix.Stat(filepath.Join(open, "f"), &st))
	if st.Uid != 65534 || st.Gid != 65534 || st.Mode&0o777 != 0o640 {
		t.Errorf("made a file of %d:%d, mode %o", st.Uid, st.Gid, st.Mode)
	}
	if _, err := os.ReadFile(closed); err != nil {
		t.Error(err)
	}
}

// TestRefused: no function runs with credentials other than those that were asked for, and what was taken on is given back.
func TestRefused(t *testing.T) {
	testutil.Require(t, testutil.Root)
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	own := asked()
	tooMany := make([]uint32, 65537) // NGROUPS_MAX and one
	for _, u := range []User{
		{UID: 1<<32 - 1, GID: 1},
		{UID: 1<<32 - 1, GID: 1, Groups: []uint32{5}},
		{UID: 1, GID: 1<<32 - 1},
		{UID: 1, GID: 1<<32 - 1, Groups: []uint32{5}},
		{UID: 1, GID: 1, Groups: []uint32{1<<32 - 1}},
		{UID: 1, GID: 1, Groups: tooMany},
	} {
		for range 2 {
			if err := Do(u, func() { t.Errorf("ran as %d:%d", u.UID, u.GID) }); err == nil {
				t.Errorf("%d:%d: no error", u.UID, u.GID)
			}
			if now := asked(); now != own {
				t.Errorf("after %d:%d\n%s\nwant\n%s", u.UID, u.GID, now, own)
			}
		}
	}
}

// TestFewCapabilities: a process that has some of root's capabilities alone keeps those, and no function is run where one is missing.
func TestFewCapabilities(t *testing.T) {
	testutil.Require(t, testutil.Root)
	u := User{UID: 1, GID: 1, Groups: []uint32{1, 2, 3}}
	onOwnThread(func() {
		few := sys.Capabilities{
			Effective: 1<<unix.CAP_SETUID | 1<<unix.CAP_SETGID | 1<<unix.CAP_FOWNER,
			Permitted: 1<<unix.CAP_SETUID | 1<<unix.CAP_SETGID | 1<<unix.CAP_FOWNER | 1<<unix.CAP_DAC_OVERRIDE,
		}
		if err := sys.SetThreadCapabilities(few); err != nil {
			t.Error(err)
		}
		do(t, u, func() {}) // of what is permitted, no more is effective than before
		for _, missing := range []int{unix.CAP_SETUID, unix.CAP_SETGID} {
			less := few
			less.Effective &^= 1 << missing
			if err := sys.SetThreadCapabilities(less); err != nil {
				t.Error(err)
			}
			before := asked()
			if err := Do(u, func() { t.Error("ran") }); !errors.Is(err, unix.EPERM) {
				t.Errorf("%v, want %v", err, unix.EPERM)
			}
			if after := asked(); after != before {
				t.Errorf("without capability %d\n%s\nwant\n%s", missing, after, before)
			}
		}
	})
}

// TestRefusedCalls: where a seccomp filter refuses one of the calls, or says that it was made, no function is run, and what was taken on is
// given back.
func TestRefusedCalls(t *testing.T) {
	testutil.Require(t, testutil.Root)
	own, err := sys.ThreadGroups()
	if err != nil {
		t.Fatal(err)
	}
	u := User{UID: 1, GID: 1, Groups: append(own, 4_000_000_000)}
	for _, call := range []uint32{unix.SYS_SETGROUPS, unix.SYS_SETFSGID, unix.SYS_SETFSUID, unix.SYS_CAPSET} {
		for _, errno := range []uint32{uint32(unix.EPERM), 0} {
			onOwnThread(func() {
				before := asked()
				filter(t, call, errno)
				if err := Do(u, func() { t.Errorf("call %d, error %d: ran", call, errno) }); err == nil {
					t.Errorf("call %d, error %d: no error", call, errno)
				}
				if after := asked(); after != before {
					t.Errorf("call %d, error %d: the thread has\n%s\nand had\n%s", call, errno, after, before)
				}
			})
		}
	}
}

// filter has a call of the thread, from here on, do nothing and give an error; 0 is none. seccomp(2).
func filter(t *testing.T, call, errno uint32) {
	program := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS}, // the number of the call
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: call, Jf: 1},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ERRNO | errno},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW},
	}
	p := unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]}
	if err := unix.Prctl(unix.PR_SET_SECCOMP, unix.SECCOMP_MODE_FILTER, uintptr(unsafe.Pointer(&p)), 0, 0); err != nil {
		t.Error(err)
	}
}

// onOwnThread runs f on a thread that ends with it.
func onOwnThread(f func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // never unlocked
		f()
	}()
	<-done
}

// TestItself: what needs no other credentials is allowed to everybody.
func TestItself(t *testing.T) {
	uid := uint32(os.Geteuid())
	do(t, User{UID: uid, GID: 12345}, func() { do(t, User{UID: uid}, func() {}) })
	if uid != 0 {
		for _, other := range []uint32{0, uid + 1} {
			if err := Do(User{UID: other}, func() { t.Error("ran") }); !errors.Is(err, fs.ErrPermission) {
				t.Errorf("user %d: %v, want %v", other, err, fs.ErrPermission)
			}
		}
	}
}

// TestNested: within a function nobody else's credentials are to be had, root's least of all.
func TestNested(t *testing.T) {
	testutil.Require(t, testutil.Root)
	own := asked()
	u := User{UID: 65534, GID: 65534}
	do(t, u, func() {
		for _, other := range []User{u, {}, {UID: 1, GID: 1, Groups: []uint32{1}}} {
			if err := Do(other, func() { t.Errorf("ran as %d", other.UID) }); !errors.Is(err, ErrNested) {
				t.Errorf("as %d: %v, want %v", other.UID, err, ErrNested)
			}
			if got, want := asked(), expected(own, u); got != want {
				t.Errorf("got\n%s\nwant\n%s", got, want)
			}
		}
	})
	do(t, User{}, func() { do(t, u, func() {}) }) // for root there is nothing to nest in
}

// TestNotReturned: a function that does not return takes no credentials with it.
func TestNotReturned(t *testing.T) {
	testutil.Require(t, testutil.Root)
	u := User{UID: 65534, GID: 65534, Groups: []uint32{1}}
	for what, f := range map[string]func(){"panic": func() { panic("f") }, "Goexit": runtime.Goexit} {
		done := make(chan struct{})
		go func() {
			defer close(done)
			runtime.LockOSThread()
			defer runtime.UnlockOSThread()
			tid, own := unix.Gettid(), asked()
			defer func() {
				if r := recover(); r != nil && r != "f" {
					t.Errorf("%s: %v", what, r)
				}
				if now := asked(); now != own || unix.Gettid() != tid {
					t.Errorf("%s: thread %d has\n%s\nand thread %d had\n%s", what, unix.Gettid(), now, tid, own)
				}
			}()
			err := Do(u, f)
			t.Errorf("%s: returned %v", what, err)
		}()
		<-done
	}
}

// TestFirstThread: the first thread of the process is as good as any other.
func TestFirstThread(t *testing.T) {
	testutil.Require(t, testutil.Root)
	child := testutil.Start(t, testutil.Command(t, "first thread"))
	own := asked()
	for _, want := range []string{own, expected(own, User{UID: 7, GID: 8, Groups: []uint32{9, 10}}), own} {
		for line := range strings.SplitSeq(want, "\n") {
			child.Expect(line)
		}
	}
}

// onFirstThread is a process that says what credentials its first thread has before, in and after a function.
func onFirstThread() {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if unix.Gettid() != os.Getpid() { // this one is held, and the runtime makes no threads while there are idle ones
		done := make(chan struct{})
		go func() {
			defer close(done)
			onFirstThread()
		}()
		<-done
		return
	}
	fmt.Println(asked())
	if err := Do(User{UID: 7, GID: 8, Groups: []uint32{9, 10}}, func() { fmt.Println(asked()) }); err != nil {
		fmt.Println(err)
	}
	fmt.Println(asked())
}

// TestNoWayBack: with rights that cannot be given back nothing goes on.
func TestNoWayBack(t *testing.T) {
	testutil.Require(t, testutil.Root)
	cmd := testutil.Command(t, "no way back")
	var said strings.Builder
	cmd.Stderr = &said
	out, err := cmd.Output()
	if err == nil || len(out) > 0 {
		t.Errorf("%v, and it said %q", err, out)
	}
	if want := "panic: asuser: a thread has the rights of another user"; !strings.Contains(said.String(), want) {
		t.Errorf("%v: %q is not in\n%s", err, want, said.String())
	}
}

// loseAll is a process with a function that gives up the permitted capabilities, and a caller that takes no notice of panics.
func loseAll() {
	defer func() {
		_ = recover()
		fmt.Println("recovered")
	}()
	err := Do(User{UID: 7, GID: 8}, func() {
		if err := sys.SetThreadCapabilities(sys.Capabilities{}); err != nil {
			fmt.Println(err)
		}
	})
	fmt.Println("returned", err)
}

func BenchmarkDo(b *testing.B) {
	testutil.Require(b, testutil.Root)
	same, err := sys.ThreadGroups()
	if err != nil {
		b.Fatal(err)
	}
	for what, groups := range map[string][]uint32{"other groups": {1, 2, 3}, "the same groups": same} {
		b.Run(what, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if err := Do(User{UID: 65534, GID: 65534, Groups: groups}, func() {}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
