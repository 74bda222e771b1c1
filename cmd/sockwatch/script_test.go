package main

import (
	"errors"
	"fmt"
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
// [root] and [program:NAME]; unlike [exec:NAME], they fail where SOCKWATCH_TEST_REQUIRE names what is missing.
func TestScript(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		Condition:           conditions(t),
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
	have := map[string]bool{}
	for name, feature := range map[string]testutil.Feature{
		"root":                 testutil.Root,
		"program:dbus-daemon":  testutil.Program("dbus-daemon"),
		"program:redis-server": testutil.Program("redis-server"),
		"program:ssh":          testutil.Program("ssh"),
		"program:ssh-agent":    testutil.Program("ssh-agent"),
		"program:tmux":         testutil.Program("tmux"),
	} {
		have[name] = false
		t.Run(name, func(t *testing.T) {
			testutil.Require(t, feature)
			have[name] = true
		})
	}
	return func(name string) (bool, error) {
		there, known := have[name]
		if !known {
			return false, fmt.Errorf("no condition %q", name)
		}
		return there, nil
	}
}
