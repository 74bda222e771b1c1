package pidfd

import (
	"os/exec"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/sockwatch/sockwatch/internal/testutil"
)

// endings are shell scripts and how they end.
var endings = map[string]Exit{
	"exit 0":        {Known: true},
	"exit 3":        {Known: true, Code: 3},
	"exit 255":      {Known: true, Code: 255},
	"kill -KILL $$": {Known: true, Signal: unix.SIGKILL},
	"kill -TERM $$": {Known: true, Signal: unix.SIGTERM},
	"kill -35 $$":   {Known: true, Signal: 35},
}

func TestExitOfChild(t *testing.T) {
	for script, want := range endings {
		t.Run(script, func(t *testing.T) {
			if got := exitOfChild(t, script); got != want {
				t.Errorf("got %+v, want %+v", got, want)
			}
		})
	}
}

// TestExitCore: whether there is a core depends on core_pattern; wait(2) knows.
func TestExitCore(t *testing.T) {
	if got := exitOfChild(t, "ulimit -c 8; kill -SEGV $$"); got.Signal != unix.SIGSEGV {
		t.Errorf("got %+v", got)
	} else {
		t.Log(got)
	}
}

// exitOfChild checks that Exit says what wait(2) says, before and after it, and takes nothing away from it.
func exitOfChild(t *testing.T, script string) Exit {
	t.Helper()
	cmd := exec.Command("sh", "-c", script)
	cmd.Dir = testutil.TempDir(t)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	p, err := FromProcess(cmd.Process)
	if err != nil {
		t.Fatal(err)
	}
	closeAtEnd(t, p)
	waitExit(t, p)
	got := p.Exit()
	if again := p.Exit(); again != got {
		t.Errorf("got %+v, then %+v", got, again)
	}
	waitErr := cmd.Wait()
	status, ok := cmd.ProcessState.Sys().(syscall.WaitStatus)
	if !ok {
		t.Fatal(waitErr)
	}
	if want := decode(unix.WaitStatus(status)); got != want {
		t.Errorf("got %+v, and wait(2) says %+v", got, want)
	}
	if reaped := p.Exit(); reaped != got && reaped != (Exit{Reason: ReasonNotKept}) {
		t.Errorf("reaped: got %+v, want %+v", reaped, got)
	}
	return got
}

func TestExitOfStranger(t *testing.T) {
	testutil.Require(t, testutil.InfoExit)
	for script, want := range endings {
		t.Run(script, func(t *testing.T) {
			if got := exitOfStranger(t, script); got != want {
				t.Errorf("got %+v, want %+v", got, want)
			}
		})
	}
}

// TestExitNeverWrong is for kernels that do not keep the status, too.
func TestExitNeverWrong(t *testing.T) {
	got := exitOfStranger(t, "exit 3")
	if got != (Exit{Known: true, Code: 3}) && got != (Exit{Reason: ReasonNotKept}) {
		t.Errorf("got %+v", got)
	}
}

// exitOfStranger runs a script in a process that is not our child, and returns its Exit after it was reaped.
func exitOfStranger(t *testing.T, script string) Exit {
	t.Helper()
	s := startStranger(t, "sh", "-c", script)
	p := open(t, s.pid)
	waitExit(t, p)
	if got := p.Exit(); got != (Exit{Reason: ReasonNotReaped}) {
		t.Errorf("zombie: got %+v", got)
	}
	s.reap()
	return p.Exit()
}

func TestExitRunning(t *testing.T) {
	for _, pid := range []int{1, idle(t).PID(), startStranger(t, "sleep", "1000").pid} {
		if got := open(t, pid).Exit(); got != (Exit{Reason: ReasonRunning}) {
			t.Errorf("process %d: %+v", pid, got)
		}
	}
}

func TestExitText(t *testing.T) {
	for want, e := range map[string]Exit{
		"exit status 0":                   {Known: true},
		"exit status 3":                   {Known: true, Code: 3},
		"killed by SIGKILL":               {Known: true, Signal: unix.SIGKILL},
		"killed by SIGSEGV (core dumped)": {Known: true, Signal: unix.SIGSEGV, Core: true},
		"killed by signal 35":             {Known: true, Signal: 35},
		"not reaped by its parent yet":    {Reason: ReasonNotReaped},
		"unknown":                         {},
	} {
		if got := e.String(); got != want {
			t.Errorf("%+v is %q, want %q", e, got, want)
		}
	}
}
