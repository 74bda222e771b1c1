package reap

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sockwatch/sockwatch/internal/testutil"
)

// leftoversAre changes for the rest of the test how old a leftover is at least.
func leftoversAre(t *testing.T, old time.Duration) {
	t.Helper()
	leftoverAge = old
	t.Cleanup(func() { leftoverAge = LeftoverAge })
}

func TestLeftovers(t *testing.T) {
	onFilesystems(t, func(t *testing.T, dir string) {
		in := func(name string) string { return filepath.Join(dir, name) }
		private := func(suffix string) string { return in(privatePrefix + suffix) }
		leaveDead(t, private("DEAD"))
		leaveDead(t, private(strings.Repeat("D", 26)))

		crashed := func(name, suffix string) {
			t.Helper()
			bindSocket(t, in(name), unix.SOCK_DGRAM)
			must(t, os.Rename(in(name), private(suffix)))
		}
		crashed("live", "LIVE")
		crashed("name \xff\n", "LIVE2")
		crashed("taken", "TAKEN")
		must(t, os.WriteFile(in("taken"), nil, 0o600))
		crashed("linked", "LINKED")
		must(t, os.Link(private("LINKED"), in("linked")))
		leaveDead(t, in("dead"))
		must(t, os.Link(in("dead"), private("LINK")))
		bindSocket(t, private("BOUND"), unix.SOCK_STREAM)
		must(t, os.WriteFile(private("REGULAR"), nil, 0o600))
		must(t, os.Mkdir(private("DIRECTORY"), 0o700))
		must(t, os.Symlink("dead", private("SYMLINK")))

		// A removal may be under way.
		leftoversAre(t, time.Hour)
		before := listDir(t, dir)
		wantSweep(t, SweepOptions{Match: "nothing"}, []string{dir}, map[string]string{})
		if after := listDir(t, dir); strings.Join(before, "\n") != strings.Join(after, "\n") {
			t.Errorf("%q became %q", before, after)
		}
		leftoversAre(t, 0)

		before = listDir(t, dir)
		wantSweep(t, SweepOptions{Match: "nothing", DryRun: true}, []string{dir}, map[string]string{
			private("DEAD"): "removed", private(strings.Repeat("D", 26)): "removed",
			private("LIVE"): "alive", private("LIVE2"): "alive", private("TAKEN"): "alive", private("BOUND"): "alive",
		})
		if after := listDir(t, dir); strings.Join(before, "\n") != strings.Join(after, "\n") {
			t.Errorf("a dry run made %q of %q", after, before)
		}

		witnesses := map[string]witness{in("live"): pinInode(t, private("LIVE")), in("name \xff\n"): pinInode(t, private("LIVE2"))}
		got := map[string]string{}
		for r := range Sweep(t.Context(), SweepOptions{Match: "nothing", MinAge: time.Hour}, dir) {
			got[r.Path] = say(r)
			// What could not be given its name says why.
			if kept := r.Path == private("TAKEN") || r.Path == private("BOUND"); kept != (r.Err != nil) {
				t.Errorf("%+v", r)
			}
		}
		want := map[string]string{
			private("DEAD"): "removed", private(strings.Repeat("D", 26)): "removed",
			in("live"): "alive", in("name \xff\n"): "alive", private("TAKEN"): "alive", private("BOUND"): "alive",
		}
		if len(got) != len(want) {
			t.Errorf("got %q", got)
		}
		for path, outcome := range want {
			if got[path] != outcome {
				t.Errorf("%q: %q, want %q", path, got[path], outcome)
			}
		}
		for path, w := range witnesses {
			if !w.at(path) {
				t.Errorf("%q has not got its inode back", path)
			}
		}
		wantNames(t, dir, "live", "name \xff\n", "taken", "linked", "dead",
			privatePrefix+"TAKEN", privatePrefix+"BOUND", privatePrefix+"REGULAR", privatePrefix+"DIRECTORY", privatePrefix+"SYMLINK")

		// The last of the links is a file like any other.
		wantSweep(t, SweepOptions{Match: "dead"}, []string{dir}, map[string]string{
			in("dead"): "removed", private("TAKEN"): "alive", private("BOUND"): "alive",
		})
	})
}

// TestLeftoverOfOtherNetwork: the socket is of another network namespace, where the socket table tells no name.
func TestLeftoverOfOtherNetwork(t *testing.T) {
	dir := testutil.TempDir(t)
	onThread(t, "bind", func(t *testing.T, _ string) {
		testutil.Require(t, testutil.Root)
		must(t, unix.Unshare(unix.CLONE_NEWNET))
		s := bindSocket(t, dir+"/live", unix.SOCK_STREAM)
		must(t, os.Rename(dir+"/live", dir+"/"+privatePrefix+"LIVE"))
		done := make(chan struct{})
		go func() { // on a thread of the first namespace
			defer close(done)
			leftoversAre(t, 0)
			for r := range Sweep(t.Context(), SweepOptions{}, dir) {
				if r.Outcome != OutcomeAlive || r.Err == nil {
					t.Errorf("%+v", r)
				}
			}
		}()
		<-done
		wantNames(t, dir, privatePrefix+"LIVE")
		s.die()
	})
}
