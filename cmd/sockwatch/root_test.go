package main

import (
	"errors"
	"io"
	"os"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// TestCommands holds every subcommand to what root.go asks of it.
func TestCommands(t *testing.T) {
	root := newRootCmd(newApp(os.Stdout, os.Stderr))
	checkLong(t, root)
	root.Flags().VisitAll(func(f *pflag.Flag) { checkFlag(t, root, f) })
	for _, cmd := range root.Commands() {
		switch {
		case cmd.Short == "" || strings.HasSuffix(cmd.Short, ".") || len(cmd.Short) > 64:
			t.Errorf("%s: Short is %q: want a line without a full stop that fits into the list of commands", cmd.Name(), cmd.Short)
		case cmd.Long == "" || cmd.Example == "":
			t.Errorf("%s: no Long or no Example", cmd.Name())
		case cmd.GroupID == "":
			t.Errorf("%s: no GroupID", cmd.Name())
		case cmd.Args == nil:
			t.Errorf("%s: Args is not set, it would take any", cmd.Name())
		case cmd.Run != nil || cmd.RunE == nil:
			t.Errorf("%s: want RunE and not Run", cmd.Name())
		}
		for line := range strings.SplitSeq(cmd.Example, "\n") {
			if line != "" && !strings.HasPrefix(line, "  ") {
				t.Errorf("%s: a line of its Example is not indented: %q", cmd.Name(), line)
			}
		}
		checkLong(t, cmd)
		cmd.Flags().VisitAll(func(f *pflag.Flag) { checkFlag(t, cmd, f) })
	}
}

// checkLong: the text is for an 80 column terminal, and for Markdown.
func checkLong(t *testing.T, cmd *cobra.Command) {
	t.Helper()
	before := ""
	for line := range strings.SplitSeq(cmd.Long, "\n") {
		indented, wasIndented := strings.HasPrefix(line, "    "), strings.HasPrefix(before, "    ")
		switch {
		case utf8.RuneCountInString(line) > 80:
			t.Errorf("%s: a line of its Long is too long: %q", cmd.Name(), line)
		case !indented && strings.HasPrefix(line, " "):
			t.Errorf("%s: a line of its Long is indented, and not by four spaces: %q", cmd.Name(), line)
		case indented != wasIndented && line != "" && before != "":
			t.Errorf("%s: no empty line before %q", cmd.Name(), line)
		case !indented && strings.ContainsAny(line, "`*<\\"):
			t.Errorf("%s: Markdown in %q", cmd.Name(), line)
		}
		before = line
	}
}

func checkFlag(t *testing.T, cmd *cobra.Command, f *pflag.Flag) {
	t.Helper()
	value, usage := pflag.UnquoteUsage(f)
	if usage == "" || strings.HasSuffix(usage, ".") || strings.ToUpper(value) != value {
		t.Errorf("%s: --%s %s: want a usage without a full stop, the value's name in it in capitals and backquotes",
			cmd.Name(), f.Name, value)
	}
}

func TestExitStatus(t *testing.T) {
	failure := errors.New("failure")
	for _, tt := range []struct {
		name string
		args string
		err  error
		want int // of a command; one that passes its CMD's status on gives passing
		pass int
	}{
		{"success", "", nil, 0, 0},
		{"failure", "", failure, statusFailed, statusOwnFailure},
		{"found by the command", "", usagef("wrong"), statusUsage, statusOwnFailure},
		{"found by cobra", "--unknown", nil, statusUsage, statusOwnFailure},
		{"its own", "", exitWith(statusLeaks, nil), statusLeaks, statusLeaks},
		{"its own and an error", "", exitWith(77, failure), 77, 77},
	} {
		for _, passes := range []bool{false, true} {
			want := tt.want
			if passes {
				want = tt.pass
			}
			a := &app{stdout: &output{w: io.Discard}, stderr: &output{w: io.Discard}}
			root := newRootCmd(a)
			cmd := &cobra.Command{Use: "cmd", Args: noArgs, RunE: func(*cobra.Command, []string) error { return tt.err }}
			if passes {
				passesStatusOn(cmd)
			}
			root.AddCommand(cmd)
			if got := a.exit(run(a, root, append([]string{"cmd"}, strings.Fields(tt.args)...))); got != want {
				t.Errorf("%s, passes %v: exit status %d, want %d", tt.name, passes, got, want)
			}
		}
	}
}

func TestOneArg(t *testing.T) {
	if err := oneArg("PATH")(nil, []string{"a", "b"}); err == nil || err.Error() != "it takes one PATH, and got 2" {
		t.Error(err)
	}
	if err := oneArg("PATH")(nil, []string{"a"}); err != nil {
		t.Error(err)
	}
}

func TestNeedArgs(t *testing.T) {
	if err := needArgs("PID")(nil, nil); err == nil || err.Error() != "no PID given" {
		t.Error(err)
	}
	if err := needArgs("PID")(nil, []string{"1", "2"}); err != nil {
		t.Error(err)
	}
}
