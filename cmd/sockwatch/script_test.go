package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/sockwatch/sockwatch/internal/testutil"
)

// TestScript runs the scripts that specify the program, each in a directory and an environment of its own, with
// sockwatch in PATH, and puppet, which stands for any server. See
// https://pkg.go.dev/github.com/rogpeppe/go-internal/testscript for their language; it has one more command here:
//
//	exits STATUS COMMAND [ARG]...
//
// is exec for a command that is to end with exactly that exit status. Of the machine a script asks by the conditions
// [bpf], [root], [userns] and [program:NAME]; unlike [exec:NAME], they fail where SOCKWATCH_TEST_REQUIRE names what is missing.
func TestScript(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:       "testdata/script",
		Condition: conditions(t),
		Setup: func(env *testscript.Env) error {
			env.Setenv("GORACE", os.Getenv("GORACE"))
			env.Setenv("SOCKWATCH_RUNTIME_DIR", env.WorkDir+"/none") // not the machine's own daemon
			return nil
		},
		WorkdirRoot:         testutil.TempDir(t), // its path is short enough for sock-files
		Cmds:                map[string]func(*testscript.TestScript, bool, []string){"exits": exits},
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
	})
}

func exits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits STATUS COMMAND [ARG]...")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	got := 0
	if err := ts.Exec(args[1], args[2:]...); err != nil {
		var exit *exec.ExitError
		if !errors.As(err, &exit) {
			ts.Fatalf("%s: %v", args[1], err)
		}
		got = exit.ExitCode() // -1: killed by a signal
	}
	if got != want {
		ts.Fatalf("exit status %d, want %d", got, want)
	}
}

// conditions asks, before the first script, for all that scripts can ask for.
func conditions(t *testing.T) func(string) (bool, error) {
	have := map[string]bool{"bpf": has(t, testutil.BPF), "root": has(t, testutil.Root), "userns": has(t, testutil.UserNS)}
	for _, program := range []string{"dbus-daemon", "gunicorn", "nginx", "php-fpm8.2", "redis-server", "setpriv", "ssh", "ssh-agent", "sshd", "tmux", "unshare"} {
		have["program:"+program] = has(t, testutil.Program(program))
	}
	return func(name string) (bool, error) {
		there, known := have[name]
		if !known {
			return false, fmt.Errorf("no condition %q", name)
		}
		return there, nil
	}
}

// has tells whether the machine has the feature. It fails the test where SOCKWATCH_TEST_REQUIRE names a missing one.
func has(t *testing.T, feature testutil.Feature) bool {
	a := asking{TB: t}
	testutil.Require(&a, feature)
	return !a.skipped
}

// asking is a test that notes that it is to skip, and goes on.
type asking struct {
	testing.TB
	skipped bool
}

func (a *asking) Skipf(string, ...any) { a.skipped = true }
