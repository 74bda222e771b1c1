//go:build failpoints

package failpoint

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/sockwatch/sockwatch/internal/testutil"
)

func init() { helpers["points"] = points }

// points hits those of its arguments, and says what they gave.
func points() {
	for _, point := range os.Args[1:] {
		err := Hit(point)
		fmt.Println(point, err)
	}
}

func TestParse(t *testing.T) {
	for text, want := range map[string][]rule{
		"":                   nil,
		",":                  nil,
		"unlinkat=EIO":       {{point: "unlinkat", what: "EIO", errno: unix.EIO}},
		"unlinkat:2=ENOSPC":  {{point: "unlinkat", nth: 2, what: "ENOSPC", errno: unix.ENOSPC}},
		"*:17=kill":          {{point: "*", nth: 17, what: "kill", sig: unix.SIGKILL}},
		"record/rename=stop": {{point: "record/rename", what: "stop", sig: unix.SIGSTOP}},
		"a=EPERM,*=EHWPOISON": {
			{point: "a", what: "EPERM", errno: unix.EPERM},
			{point: "*", what: "EHWPOISON", errno: unix.EHWPOISON},
		},
	} {
		rules, err := parse(text)
		if err != nil {
			t.Errorf("%q: %v", text, err)
		}
		if !slices.EqualFunc(rules, want, func(a *rule, b rule) bool { return *a == b }) {
			t.Errorf("%q: %v, want %v", text, rules, want)
		}
	}
	for _, text := range []string{"x", "=EIO", "x=", "x=eio", "x=5", "x:0=EIO", "x:=EIO", "x:-1=EIO", "x:y=kill", "a=EIO,b"} {
		if rules, err := parse(text); err == nil {
			t.Errorf("%q: %v, want an error", text, rules)
		}
	}
}

// run hits the points a b a b c by the rules, in a process of its own.
func run(t *testing.T, rules string) (cmd *exec.Cmd, stdout, stderr *strings.Builder) {
	t.Helper()
	stdout, stderr = &strings.Builder{}, &strings.Builder{}
	cmd = testutil.Command(t, "points", "a", "b", "a", "b", "c")
	cmd.Env = append(cmd.Env, variable+"="+rules)
	cmd.Stdout, cmd.Stderr = stdout, stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return cmd, stdout, stderr
}

func TestHit(t *testing.T) {
	for _, c := range []struct{ rules, says, tells string }{
		{"", "a <nil>\nb <nil>\na <nil>\nb <nil>\nc <nil>\n", ""},
		{"d=EIO", "a <nil>\nb <nil>\na <nil>\nb <nil>\nc <nil>\n", ""},
		{"a=EPERM", "a operation not permitted\nb <nil>\na operation not permitted\nb <nil>\nc <nil>\n", "1 a: EPERM, 3 a: EPERM"},
		{"*:4=EPERM", "a <nil>\nb <nil>\na <nil>\nb operation not permitted\nc <nil>\n", "4 b: EPERM"},
		// Each rule counts for itself, also what another one was followed at.
		{"a:1=EPERM,*:1=EIO,*:3=EPERM", "a operation not permitted\nb <nil>\na operation not permitted\nb <nil>\nc <nil>\n", "1 a: EPERM, 3 a: EPERM"},
		{"*:3=kill", "a <nil>\nb <nil>\n", "3 a: kill"},
	} {
		cmd, stdout, stderr := run(t, c.rules)
		err := cmd.Wait()
		if killed := strings.HasSuffix(c.rules, "kill"); (err != nil) != killed {
			t.Errorf("%q: %v", c.rules, err)
		} else if killed && cmd.ProcessState.String() != "signal: killed" {
			t.Errorf("%q: %v", c.rules, cmd.ProcessState)
		}
		tells := ""
		if c.tells != "" {
			tells = "failpoint: " + strings.ReplaceAll(c.tells, ", ", "\nfailpoint: ") + "\n"
		}
		if stdout.String() != c.says || stderr.String() != tells {
			t.Errorf("%q: it says %q and tells %q, want %q and %q", c.rules, stdout, stderr, c.says, tells)
		}
	}
}

func TestStop(t *testing.T) {
	cmd, stdout, stderr := run(t, "b:2=stop,*:4=EIO")
	var status unix.WaitStatus
	for {
		_, err := unix.Wait4(cmd.Process.Pid, &status, unix.WUNTRACED, nil)
		if err == nil {
			break
		}
		if !errors.Is(err, unix.EINTR) {
			t.Fatal(err)
		}
	}
	if !status.Stopped() {
		t.Fatalf("wait status %#x, want it stopped", int(status))
	}
	if err := cmd.Process.Signal(unix.SIGCONT); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	if want := "a <nil>\nb <nil>\na <nil>\nb input/output error\nc <nil>\n"; stdout.String() != want {
		t.Errorf("it says %q, want %q", stdout, want)
	}
	if want := "failpoint: 4 b: stop\nfailpoint: 4 b: EIO\n"; stderr.String() != want {
		t.Errorf("it tells %q, want %q", stderr, want)
	}
}

func TestUnreadable(t *testing.T) {
	cmd, _, stderr := run(t, "a=oops")
	if err := cmd.Wait(); cmd.ProcessState.ExitCode() != 2 {
		t.Errorf("%v, want exit status 2", err)
	}
	if want := variable + `: rule "a=oops": "oops" is no error's name`; !strings.HasPrefix(stderr.String(), want) {
		t.Errorf("it tells %q, want %q", stderr, want)
	}
}
