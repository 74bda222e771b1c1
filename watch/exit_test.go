package watch

import (
	"errors"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/sockwatch/sockwatch/internal/testutil"
	"github.com/sockwatch/sockwatch/pidfd"
	"github.com/sockwatch/sockwatch/reap"
)

// sleeper starts a process that costs next to nothing.
func sleeper(t testing.TB) *exec.Cmd {
	t.Helper()
	cmd := exec.Command("/bin/sleep", "infinity")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	return cmd
}

// TestExitEvents has one owner of every kind, and looks at all that is told of it.
func TestExitEvents(t *testing.T) {
	kinds := func(events []Event) []Kind {
		var ks []Kind
		for _, e := range events {
			ks = append(ks, e.Kind)
		}
		return ks
	}
	check := func(t *testing.T, w *watched, o *Owner, want ...Kind) {
		t.Helper()
		if got := kinds(w.seen); !slices.Equal(got, want) {
			t.Errorf("events: %s", describe(w.seen))
		}
		for i, e := range w.seen {
			if e.Owner != o.Identity() {
				t.Errorf("event %d is of owner %s, want %s", i, e.Owner, o.Identity())
			}
			if e.Time.IsZero() || i > 0 && e.Time.Before(w.seen[i-1].Time) {
				t.Errorf("the times are out of order: %s", describe(w.seen))
			}
			if e.Kind == KindOutcome && (e.AfterExit < 0 || e.Source != SourceExplicit) {
				t.Errorf("%v after the exit, source %s", e.AfterExit, e.Source)
			}
		}
	}

	t.Run("child", func(t *testing.T) {
		w, path := newWatched(t), testutil.TempDir(t)+"/a"
		p := startPuppet(t)
		o := w.add(p.pid(), OwnerOptions{Paths: []string{path}})
		p.do("bind", path)
		p.child.Say(`exit "3"`)
		e := w.wantOutcome(path, reap.OutcomeRemoved, "")
		want := pidfd.Exit{Known: true, Code: 3}
		if e.Exit != want || o.Exit() != want || w.seen[1].Exit != want {
			t.Errorf("exit %v, %v, %v", w.seen[1].Exit, e.Exit, o.Exit())
		}
		check(t, w, o, KindClaimed, KindExited, KindOutcome)
		_ = p.child.Cmd.Wait()
		w.settleLoop()
		w.empty()
	})
	t.Run("child killed", func(t *testing.T) {
		w := newWatched(t)
		cmd := sleeper(t)
		o := w.add(cmd.Process.Pid, OwnerOptions{})
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		waitSettled(t, o)
		if want := (pidfd.Exit{Known: true, Signal: unix.SIGKILL}); o.Exit() != want {
			t.Errorf("exit %v", o.Exit())
		}
		if err := cmd.Wait(); err == nil || cmd.ProcessState.Sys().(interface{ Signaled() bool }).Signaled() != true {
			t.Errorf("the wait status was stolen: %v", err)
		}
	})
	t.Run("not a child", func(t *testing.T) {
		testutil.Require(t, testutil.Pidfs, testutil.InfoExit)
		w, dir := newWatched(t), testutil.TempDir(t)
		p := startPuppet(t)
		child := p.hatch(1, dir+"/", "kill")[0]
		o := w.addProcess(duplicate(t, child), OwnerOptions{Paths: []string{dir + "/0"}})
		goOn(t, child)
		e := w.wantOutcome(dir+"/0", reap.OutcomeRemoved, "")
		if want := (pidfd.Exit{Reason: pidfd.ReasonNotReaped}); e.Exit != want || w.seen[1].Exit != want {
			t.Errorf("exit %v, %v of a zombie", w.seen[1].Exit, e.Exit)
		}
		waitSettled(t, o)
		w.idle() // silent on the zombie

		p.do("reap", strconv.Itoa(child.PID()))
		e = w.next(func(e Event) bool { return e.Kind == KindExited && e.Exit.Known })
		if want := (pidfd.Exit{Known: true, Signal: unix.SIGKILL}); e.Exit != want || o.Exit() != want {
			t.Errorf("exit %v, %v", e.Exit, o.Exit())
		}
		check(t, w, o, KindClaimed, KindExited, KindOutcome, KindExited)
		w.empty()
	})
	t.Run("another name by then", func(t *testing.T) {
		w := newWatched(t)
		child := testutil.Start(t, exec.Command("/bin/sh", "-c", "echo ready; read x; exec cat"))
		child.Expect("ready")
		o := w.add(child.PID(), OwnerOptions{})
		mustClaim(t, o, testutil.TempDir(t)+"/a")
		child.Say("x")
		child.Say("said by cat")
		child.Expect("said by cat")
		child.Hangup()
		e := w.next(func(e Event) bool { return e.Kind == KindExited })
		if before := w.seen[0].Comm; before != "sh" || e.Comm != "cat" {
			t.Errorf("comm %q, then %q", before, e.Comm)
		}
		waitSettled(t, o)
	})
}

// TestExitWays has an owner end in all the ways there are.
func TestExitWays(t *testing.T) {
	for name, end := range map[string]func(p *puppetProcess){
		"exit":    func(p *puppetProcess) { p.child.Say(`exit "0"`) },
		"hangup":  func(p *puppetProcess) { p.child.Hangup() },
		"SIGKILL": func(p *puppetProcess) { _ = p.child.Cmd.Process.Kill() },
		"SIGSEGV": func(p *puppetProcess) { _ = p.child.Cmd.Process.Signal(unix.SIGSEGV) },
		"SIGTERM": func(p *puppetProcess) { _ = p.child.Cmd.Process.Signal(unix.SIGTERM) },
	} {
		t.Run(name, func(t *testing.T) {
			w, dir := newWatched(t), testutil.TempDir(t)
			p := startPuppet(t, func(c *exec.Cmd) { c.Stderr = nil })
			var paths []string
			for kind := range socketTypes {
				paths = append(paths, dir+"/"+kind)
				p.do("bind", dir+"/"+kind, kind)
			}
			o := w.add(p.pid(), OwnerOptions{Paths: append(paths, dir+"/never")})
			end(p)
			waitSettled(t, o)
			wantGone(t, paths...)
			removed := short{reap.OutcomeRemoved, ""}
			wantResults(t, o, map[string]short{
				"stream": removed, "dgram": removed, "seqpacket": removed,
				"never": {reap.OutcomeGone, ""},
			})
			_ = p.child.Cmd.Wait()
			w.empty()
		})
	}
}

// TestAddDead adds processes that have ended, as zombies of ours and reaped.
func TestAddDead(t *testing.T) {
	w, dir := newWatched(t), testutil.TempDir(t)
	for _, reaped := range []bool{false, true} {
		path := dir + "/" + strconv.FormatBool(reaped)
		leaveDead(t, path)
		cmd := sleeper(t)
		p := open(t, cmd.Process.Pid)
		if _, err := p.Identity(); err != nil { // before Linux 6.9 it cannot be learnt of a process that was reaped
			t.Fatal(err)
		}
		kill(t, p)
		if reaped {
			_ = cmd.Wait()
		}
		o := w.addProcess(p, OwnerOptions{Paths: []string{path}})
		waitSettled(t, o)
		wantGone(t, path)
		if exit := o.Exit(); !exit.Known && exit.Reason != pidfd.ReasonNotKept {
			t.Errorf("reaped %v: exit %v", reaped, exit)
		}
	}
	w.empty()
}

// TestAddReapedUnknown takes over the pidfd of a process of which nothing is known any more: the handle stays the caller's.
func TestAddReapedUnknown(t *testing.T) {
	w, path := newWatched(t), testutil.TempDir(t)+"/a"
	leaveDead(t, path)
	cmd := sleeper(t)
	first := open(t, cmd.Process.Pid)
	defer first.Close()
	kill(t, first)
	_ = cmd.Wait()
	p := duplicate(t, first) // as if by SCM_PIDFD
	defer p.Close()
	if _, err := w.Add(p, OwnerOptions{Paths: []string{path}}); !errors.Is(err, pidfd.ErrExited) {
		t.Errorf("Add: %v", err)
	}
	if _, err := p.Exited(); err != nil {
		t.Errorf("the handle: %v", err)
	}
	w.settleLoop()
	wantKept(t, path)
	w.empty()
}

// TestAddDying adds processes at all the moments of their end.
func TestAddDying(t *testing.T) {
	const rounds = 300
	w, dir := newWatched(t), testutil.TempDir(t)
	p := startPuppet(t)
	children := p.hatch(rounds, dir+"/", "kill")
	for i, child := range children {
		path := dir + "/" + strconv.Itoa(i)
		mine := duplicate(t, child)
		goOn(t, child) // and meanwhile:
		o := w.addProcess(mine, OwnerOptions{Paths: []string{path}})
		waitSettled(t, o)
		if exists(t, path) {
			t.Fatalf("round %d: %v", i, o.Results())
		}
	}
	p.do("reapall")
	w.settleLoop()
	w.empty()
}

// TestExitMany kills many at once.
func TestExitMany(t *testing.T) {
	const n = 300
	w, dir := newWatched(t), testutil.TempDir(t)
	p := startPuppet(t)
	children := p.hatch(n, dir+"/", "stay")
	var owners []*Owner
	for i, child := range children {
		owners = append(owners, w.addProcess(duplicate(t, child), OwnerOptions{Paths: []string{dir + "/" + strconv.Itoa(i)}}))
	}
	goOn(t, children...)
	for i, child := range children {
		w.mustIdentify(owners[i].claims[0])
		if err := child.Signal(unix.SIGKILL); err != nil {
			t.Fatal(err)
		}
	}
	for i, o := range owners {
		waitSettled(t, o)
		wantResults(t, o, map[string]short{strconv.Itoa(i): {reap.OutcomeRemoved, ""}})
	}
	p.do("reapall")
	w.settleLoop()
	w.empty()
	if entries, err := os.ReadDir(dir); err != nil || len(entries) > 0 {
		t.Errorf("%d files are left, %v", len(entries), err)
	}
}

// TestExitFlat kills 200 processes, one after the other: descriptors, watches and memory of the watcher do not grow.
func TestExitFlat(t *testing.T) {
	w, dir := newWatched(t), testutil.TempDir(t)
	p := startPuppet(t)
	before := 0
	for i, child := range p.hatch(200, dir+"/", "stay") {
		path := dir + "/" + strconv.Itoa(i)
		o := w.addProcess(duplicate(t, child), OwnerOptions{Paths: []string{path}, Bindspaces: []string{dir}})
		goOn(t, child)
		w.mustIdentify(o.claims[0])
		kill(t, child)
		waitSettled(t, o)
		wantGone(t, path)
		p.do("reap", strconv.Itoa(child.PID()))
		w.settleLoop()
		w.empty()
		child.Close()
		if i == 0 {
			before = descriptors(t)
		}
		if n := descriptors(t); n != before-i {
			t.Fatalf("round %d: %d descriptors, %d wanted", i, n, before-i)
		}
	}
}

// TestDryRun decides as ever and touches nothing.
func TestDryRun(t *testing.T) {
	w, dir := newWatched(t, Options{DryRun: true}), testutil.TempDir(t)
	p := startPuppet(t)
	p.do("bind", dir+"/dead")
	p.do("bind", dir+"/held")
	o := w.add(p.pid(), OwnerOptions{Paths: []string{dir + "/dead", dir + "/held", dir + "/gone"}})
	p.do("close")
	p.do("bind", dir+"/late")
	p.do("rename", dir+"/dead", dir+"/moved")
	p.do("rename", dir+"/moved", dir+"/dead")
	holder := listenFD(t, dir+"/alive")
	defer unix.Close(holder)
	mustClaim(t, o, dir+"/late")
	mustClaim(t, o, dir+"/alive")
	p.child.Kill()
	waitSettled(t, o)
	wantKept(t, dir+"/dead", dir+"/held", dir+"/late", dir+"/alive")
	removed := short{reap.OutcomeRemoved, ""}
	wantResults(t, o, map[string]short{
		"dead": removed, "held": removed, "late": removed,
		"gone": {reap.OutcomeGone, ""}, "alive": {reap.OutcomeAlive, reap.ReasonHolder},
	})
	for _, r := range o.Results() {
		if !r.DryRun {
			t.Errorf("%s does not say that it is a dry run", r.Path)
		}
	}
}

// listenFD binds a socket of the test's own process.
func listenFD(t testing.TB, path string) int {
	t.Helper()
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Bind(fd, &unix.SockaddrUnix{Name: path}); err != nil {
		t.Fatal(err)
	}
	if err := unix.Listen(fd, 16); err != nil {
		t.Fatal(err)
	}
	return fd
}
