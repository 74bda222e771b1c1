package daemon

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/sockwatch/sockwatch/internal/asuser"
	"github.com/sockwatch/sockwatch/internal/config"
	"github.com/sockwatch/sockwatch/internal/testutil"
	"github.com/sockwatch/sockwatch/reap"
)

// meddlerName is a helper process that tries what one may do to a process of one's own. Its arguments are a process and a thread of it. It says what
// came of that, and before that what came of the same with a child of its own.
const meddlerName = "meddler"

func init() {
	if os.Getenv("SOCKWATCH_TEST_CHILD") == meddlerName {
		meddler()
		os.Exit(0)
	}
}

func meddler() {
	pid, _ := strconv.Atoi(os.Args[1])
	tid, _ := strconv.Atoi(os.Args[2])
	os.Setenv("SOCKWATCH_TEST_CHILD", "puppet")
	own := exec.Command("/proc/self/exe")
	in, err := own.StdinPipe()
	if err != nil {
		panic(err)
	}
	out, err := own.StdoutPipe()
	if err == nil {
		err = own.Start()
	}
	if err == nil {
		_, err = io.ReadFull(out, make([]byte, len("ready\n"))) // it has its new credentials and memory by then
	}
	if err != nil {
		panic(err)
	}
	said := json.NewEncoder(os.Stdout)
	_ = said.Encode(meddle(own.Process.Pid, own.Process.Pid))
	_ = said.Encode(meddle(pid, tid))
	_ = own.Process.Kill()
	_ = own.Wait()
	_ = in.Close()
}

// meddle tries it, and gives the errors: "" is that it was allowed.
func meddle(pid, tid int) map[string]string {
	runtime.LockOSThread() // who traces is a thread
	task := fmt.Sprintf("/proc/%d/task/%d/", pid, tid)
	said := map[string]string{}
	try := func(what string, f func() error) {
		said[what] = ""
		if err := f(); err != nil {
			said[what] = err.Error()
		}
	}
	try("signal", func() error { return unix.Tgkill(pid, tid, 0) })
	try("limits", func() error { return unix.Prlimit(tid, unix.RLIMIT_NOFILE, nil, &unix.Rlimit{}) })
	try("descriptors", func() error {
		_, err := os.ReadDir(task + "fd")
		return err
	})
	try("root directory", func() error {
		_, err := os.Readlink(task + "root")
		return err
	})
	try("memory", func() error {
		f, err := os.OpenFile(task+"mem", os.O_RDWR, 0)
		if err == nil {
			err = f.Close()
		}
		return err
	})
	try("a descriptor", func() error {
		fd, err := unix.PidfdOpen(pid, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		copied, err := unix.PidfdGetfd(fd, 0, 0)
		if err == nil {
			err = unix.Close(copied)
		}
		return err
	})
	try("trace", func() error { return unix.PtraceSeize(tid) })
	return said
}

// meddled has a user try it with a thread of this process.
func meddled(t *testing.T, uid uint32, tid int) (own, said map[string]string) {
	t.Helper()
	cmd := testutil.Command(t, meddlerName, strconv.Itoa(os.Getpid()), strconv.Itoa(tid))
	as(uid)(cmd)
	child := testutil.Start(t, cmd)
	must(t, json.Unmarshal([]byte(child.Line()), &own))
	must(t, json.Unmarshal([]byte(child.Line()), &said))
	must(t, cmd.Wait())
	return own, said
}

// hisRights is in the status of a thread with the fsuid of the hostile user, proc_pid_status(5).
var hisRights = regexp.MustCompile(`\nUid:(\t\d+){3}\t1234\n`)

// TestThreadOfUser: a thread of the daemon that has a user's rights is not his to look into, to signal or to trace. Nor would it be if the
// process were dumpable, for its ids are root's.
func TestThreadOfUser(t *testing.T) {
	testutil.Require(t, testutil.Root)
	p := newPlace(t)
	d := p.serve(config.Default())
	for _, dumpable := range []bool{false, true} {
		t.Run(fmt.Sprint("dumpable=", dumpable), func(t *testing.T) {
			thread, over, done := make(chan int), make(chan struct{}), make(chan error)
			go func() { // who works for a user starts no process
				done <- d.as(asuser.User{UID: hostile, GID: hostile})(func() {
					thread <- unix.Gettid()
					<-over
				})
			}()
			tid := <-thread
			defer func() {
				close(over)
				must(t, <-done)
			}()
			if status, err := os.ReadFile(fmt.Sprintf("/proc/self/task/%d/status", tid)); !hisRights.Match(status) {
				t.Fatalf("%v, the thread does not have his rights:\n%s", err, status)
			}
			before, err := unix.PrctlRetInt(unix.PR_GET_DUMPABLE, 0, 0, 0, 0)
			must(t, err)
			if dumpable {
				must(t, unix.Prctl(unix.PR_SET_DUMPABLE, 1, 0, 0, 0))
				defer func() { must(t, unix.Prctl(unix.PR_SET_DUMPABLE, uintptr(before), 0, 0, 0)) }()
			}
			own, said := meddled(t, hostile, tid)
			for what, refusal := range said {
				testutil.Require(t, testutil.Tried("trace", func() error { // as by Yama
					if own[what] != "" {
						return fmt.Errorf("%s: a process may not do this to its own child: %s", what, own[what])
					}
					return nil
				}))
				if !strings.HasSuffix(refusal, unix.EPERM.Error()) && !strings.HasSuffix(refusal, unix.EACCES.Error()) {
					t.Errorf("%s: allowed, or %q", what, refusal)
				}
			}
			if len(said) != 7 {
				t.Errorf("%q", said)
			}
		})
	}
}

// TestNoCoreDump: a daemon that has served another user leaves no core dump when it crashes. One that has served root alone does.
func TestNoCoreDump(t *testing.T) {
	testutil.Require(t, testutil.Root)
	dumps := func(uid uint32) bool {
		p := newPlace(t)
		must(t, os.Mkdir(p.path("open"), 0o700))
		must(t, os.Chmod(p.path("open"), 0o777))
		cmd := testutil.Command(t, "daemon", p.dir, p.log, p.conf)
		cmd.Dir, cmd.Stderr = p.base, nil // where the dump goes, and the traces
		cmd.Env = append(cmd.Env, "GOTRACEBACK=crash")
		p.child = testutil.Start(t, cmd)
		p.child.Expect("ready")
		must(t, unix.Prlimit(p.child.PID(), unix.RLIMIT_CORE, &unix.Rlimit{Cur: 1 << 16, Max: 1 << 16}, nil))
		o := startPuppet(t, as(uid))
		o.do("dial", p.control())
		o.do("bind", p.path("open/s"))
		_, err := o.watch(o.pid())
		must(t, err)
		must(t, cmd.Process.Signal(unix.SIGABRT))
		_ = cmd.Wait()
		status, _ := cmd.ProcessState.Sys().(syscall.WaitStatus)
		if !status.Signaled() || status.Signal() != unix.SIGABRT {
			t.Fatalf("user %d: the daemon's end: %v", uid, cmd.ProcessState)
		}
		cores, err := filepath.Glob(p.path("core*"))
		must(t, err)
		if len(cores) > 0 && !status.CoreDump() {
			t.Errorf("user %d: %q", uid, cores)
		}
		return status.CoreDump()
	}
	testutil.Require(t, testutil.Tried("coredump", func() error {
		for name, fits := range map[string]func(string) bool{
			"fs/suid_dumpable":    func(s string) bool { return s == "0" },                       // else there is one after all, for root
			"kernel/core_pattern": func(s string) bool { return !strings.ContainsAny(s, "|/@") }, // else it is not only here
		} {
			if b, err := os.ReadFile("/proc/sys/" + name); err != nil || !fits(strings.TrimSpace(string(b))) {
				return errors.Join(fmt.Errorf("%s is %q", name, b), err)
			}
		}
		if !dumps(0) {
			return errors.New("this machine makes no core dumps")
		}
		return nil
	}))
	if dumps(hostile) {
		t.Error("there is a core dump")
	}
}

// TestTracedRights: what is bound is removed as its directory's owner could, by a rule: of all the owners on the way the first who is not root.
func TestTracedRights(t *testing.T) {
	p := newPlace(t)
	conf := p.traced(fmt.Sprintf("[[rule]]\npath = [\"%s/**\"]\naction = \"reap\"\n", p.base))
	for _, dir := range []struct {
		name string
		uid  int
		mode os.FileMode
	}{
		{"roots", 0, 0o755}, {"his", hostile, 0o777}, {"his/closed", hostile, 0o555}, {"his/roots", 0, 0o755}, {"his/victims", victim, 0o755},
	} {
		must(t, os.Mkdir(p.path(dir.name), 0o700))
		must(t, os.Chmod(p.path(dir.name), dir.mode))
		must(t, os.Chown(p.path(dir.name), dir.uid, dir.uid))
	}
	d := p.serve(conf)
	outcome := p.outcomes(d)
	for path, want := range map[string]reap.Outcome{
		"roots/s": reap.OutcomeRemoved, "his/s": reap.OutcomeRemoved,
		"his/closed/s": reap.OutcomeRefused, "his/roots/s": reap.OutcomeRefused, "his/victims/s": reap.OutcomeRefused,
	} {
		o := startPuppet(t) // of root, who may bind and remove everywhere
		o.do("bind", p.path(path))
		o.kill()
		e := outcome(p.path(path))
		if e.Result.Outcome != want || want == reap.OutcomeRefused && e.Result.Reason != reap.ReasonPermission || e.Result.DryRun {
			t.Errorf("%s: %+v, want %s", path, e, want)
		}
		if exists(t, p.path(path)) != (want == reap.OutcomeRefused) {
			t.Errorf("%s: %s, and it is not so", path, want)
		}
	}
}
