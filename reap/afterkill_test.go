package reap

import (
	"net"
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/sockwatch/sockwatch/internal/testutil"
)

// leave makes a sock-file whose socket is closed, or not if it is to live.
func leave(t *testing.T, path string, alive bool) {
	t.Helper()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	t.Cleanup(func() { l.Close() })
	if !alive {
		l.Close()
	}
}

// Told by path, by File or by convention, the same file once and again: each is settled once, and called again all is well.
func TestAfterKill(t *testing.T) {
	dir := testutil.TempDir(t)
	convention, err := ParseConvention("{name}@{pid}.sock")
	if err != nil {
		t.Fatal(err)
	}
	const pid = 4711
	byConvention := filepath.Join(dir, "actor@"+strconv.Itoa(pid)+".sock")
	for _, path := range []string{dir + "/path", dir + "/file", byConvention} {
		leave(t, path, false)
	}
	leave(t, dir+"/alive", true)
	if err := os.WriteFile(dir+"/regular", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := Open(dir + "/file")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	target := Target{
		Paths: []string{dir + "/path", dir + "/path", dir + "/file", dir + "/alive", dir + "/regular", dir + "/never", ""},
		Files: []*File{f, f, nil},
		Name:  "actor", PID: pid, Bindspaces: []string{dir, dir}, Conventions: []Convention{convention},
	}
	for round, want := range []map[string]Outcome{
		{
			dir + "/path": OutcomeRemoved, dir + "/file": OutcomeRemoved, byConvention: OutcomeRemoved, dir + "/alive": OutcomeAlive,
			dir + "/regular": OutcomeReplaced, dir + "/never": OutcomeGone, "": OutcomeGone,
		},
		{
			dir + "/path": OutcomeGone, dir + "/file": OutcomeGone, dir + "/alive": OutcomeAlive,
			dir + "/regular": OutcomeReplaced, dir + "/never": OutcomeGone, "": OutcomeGone,
		},
	} {
		got := map[string]Outcome{}
		removed := 0
		for _, r := range AfterKill(target) {
			got[r.Path] = r.Outcome
			if r.Outcome == OutcomeRemoved {
				removed++
			}
			if r.Path == dir+"/alive" && r.Reason != ReasonHolder { // this process holds it
				t.Errorf("round %d: %+v", round, r)
			}
		}
		for path, outcome := range want {
			if got[path] != outcome {
				t.Errorf("round %d: %q is %s, want %s", round, path, got[path], outcome)
			}
		}
		if round == 0 && removed != 3 {
			t.Errorf("%d removed, want 3", removed)
		}
	}
	if results := AfterKill(Target{}); len(results) > 0 {
		t.Errorf("of nothing: %+v", results)
	}
}
