package main

import (
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/sockwatch/sockwatch/internal/proc"
	"github.com/sockwatch/sockwatch/internal/sys"
)

func TestHidesProcesses(t *testing.T) {
	mayAll, err := sys.HasCapability(unix.CAP_SYS_PTRACE)
	if err != nil {
		t.Fatal(err)
	}
	for options, want := range map[string]string{
		"rw":                          "",
		"rw,hidepid=0":                "",
		"rw,hidepid=off":              "",
		"rw,hidepid=2":                "hidepid=2",
		"rw,gid=4294967293,hidepid=1": "hidepid=1",
		"rw,hidepid=invisible":        "hidepid=invisible",
	} {
		if mayAll {
			want = ""
		}
		if got := hidesProcesses(proc.Mount{SuperOptions: options}); got != want {
			t.Errorf("%s: %q, want %q", options, got, want)
		}
	}
}

// TestDoctorFails: only what is essential and missing does.
func TestDoctorFails(t *testing.T) {
	essential := missing("pidfd", "x", "y")
	essential.essential = true
	for _, tt := range []struct {
		finding finding
		want    bool
	}{
		{ok("a", "b"), false},
		{limited("a", "b", "c"), false},
		{missing("a", "b", "c"), false},
		{essential, true},
	} {
		var b strings.Builder
		d := doctor{app: &app{stdout: &output{w: &b}}}
		d.report("", []finding{ok("first", "x"), tt.finding})
		if d.failed != tt.want {
			t.Errorf("%+v: failed %v", tt.finding, d.failed)
		}
		if lines := strings.Count(b.String(), "\n"); (lines == 3) != (tt.finding.Effect != "") {
			t.Errorf("%+v: printed %q", tt.finding, b.String())
		}
	}
}
