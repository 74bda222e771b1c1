package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sockwatch/sockwatch/internal/testutil"
	"github.com/sockwatch/sockwatch/pidfd"
)

// TestTractor is the actor runtime tractor: a root process with a registry, and children that are killed, crash, or lose
// their root. See testdata/tractor.py.
func TestTractor(t *testing.T) {
	testutil.Require(t, testutil.Program("python3"))
	ways := []struct {
		name  string
		flags func(dirs ...string) []string
		env   string
	}{
		{name: "bindspace", flags: func(dirs ...string) []string { return bindspaces(dirs...) }},
		{name: "preset", flags: func(dirs ...string) []string { return append(bindspaces(dirs[1:]...), "--preset", "tractor") }},
		{name: "notify", flags: func(...string) []string { return nil }, env: "TRACTOR_REPORTS=1"},
	}
	for _, way := range ways {
		t.Run(way.name, func(t *testing.T) {
			for name, scene := range map[string]func(*actors){
				"Cancel":            (*actors).cancel,
				"Crash":             (*actors).crash,
				"CustomDirectory":   (*actors).customDirectory,
				"RootKilled":        (*actors).rootKilled,
				"RootKilled/waited": (*actors).rootKilledAndTreeWaitedFor,
				"Stale":             (*actors).stale,
			} {
				t.Run(name, func(t *testing.T) {
					runtime := testutil.TempDir(t)
					t.Setenv("XDG_RUNTIME_DIR", runtime)
					a := &actors{T: t, dir: runtime + "/tractor", custom: testutil.TempDir(t), env: append(os.Environ(), way.env)}
					if err := os.Mkdir(a.dir, 0o700); err != nil {
						t.Fatal(err)
					}
					a.flags = way.flags(a.dir, a.custom)
					scene(a)
				})
			}
		})
	}
}

func bindspaces(dirs ...string) []string {
	var flags []string
	for _, dir := range dirs {
		flags = append(flags, "--bindspace", dir)
	}
	return flags
}

// actors is the place of one scene: tractor's directory and another one.
type actors struct {
	*testing.T
	dir, custom string
	flags       []string // of run
	env         []string
}

// cancel: a child that ignores SIGTERM is killed by the root after half a second.
func (a *actors) cancel() {
	root := a.start()
	one, two := root.spawn("spawn", "one", a.dir), root.spawn("spawn", "two", a.dir)
	root.child.Say("cancel one")
	root.child.Expect("one ended -9")
	root.removed(one)
	a.holds(root.registry, two)
	root.end()
}

// crash: children die on their own, when they are known, and at once.
func (a *actors) crash() {
	root := a.start()
	other := root.spawn("spawn", "other", a.dir)
	for how, status := range map[string]int{"exit": 3, "segv": -11, "raise": 1} {
		actor := root.spawn("actor", "actor", a.dir)
		root.child.Say("tell actor " + how)
		root.child.Expect(fmt.Sprintf("actor ended %d", status))
		root.removed(actor)
		a.holds(root.registry, other)
	}
	root.child.Say("actor quick " + a.dir + "\ntell quick exit")
	root.child.Line()
	root.child.Expect("quick ended 3")
	root.end()
}

// customDirectory: a child binds elsewhere.
func (a *actors) customDirectory() {
	root := a.start()
	one, two := root.spawn("spawn", "one", a.custom), root.spawn("spawn", "two", a.custom)
	a.holds(root.registry, one, two)
	a.kill(one)
	root.removed(one)
	a.holds(root.registry, two)
	root.end()
}

// rootKilled: the root is killed, its children live on, and it is started again at once.
func (a *actors) rootKilled() {
	first := a.start()
	orphan := first.spawn("spawn", "orphan", a.dir)
	a.kill(first.registry)
	first.ends(137, fmt.Sprintf("sockwatch: kept %s: its process %d (", orphan.path, orphan.process.PID()))
	a.holds(orphan)

	second := a.start()
	child := second.spawn("spawn", "child", a.dir)
	a.holds(orphan, second.registry, child)
	a.kill(orphan)
	// Nobody has waited for that.
	a.reap(orphan.path)
	a.holds(second.registry, child)
	second.end()
}

// rootKilledAndTreeWaitedFor: so it is, but run waits for the orphans.
func (a *actors) rootKilledAndTreeWaitedFor() {
	first := a.start("--wait-tree")
	one, two := first.spawn("spawn", "one", a.dir), first.spawn("spawn", "two", a.dir)
	a.kill(first.registry)
	first.removed(first.registry)

	second := a.start()
	a.holds(one, two, second.registry)
	a.kill(one)
	first.removed(one)
	a.holds(two, second.registry)
	a.kill(two)
	first.ends(137)
	a.holds(second.registry)
	second.end()
}

// stale: a dead file from before, with a number that is another process's by now, is left alone, but not by a sweep.
func (a *actors) stale() {
	path := filepath.Join(a.dir, fmt.Sprintf("worker@%d.sock", os.Getpid()))
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path})
	if err != nil {
		a.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	l.Close()

	root := a.start()
	worker := root.spawn("spawn", "worker", a.dir)
	a.kill(worker)
	root.removed(worker)
	root.spawn("spawn", "worker", a.dir)
	root.child.Hangup()
	root.ends(0)
	a.left(filepath.Base(path))

	root = a.start()
	worker = root.spawn("spawn", "worker", a.dir)
	a.reap(path)
	a.holds(root.registry, worker)
	root.end()
}

// actor is a process that has said where it is to be reached.
type actor struct {
	process *pidfd.Process
	path    string
}

// holds fails unless each of the actors is alive, can be connected to, and nothing else is there.
func (a *actors) holds(actors ...actor) {
	a.Helper()
	var names []string
	for _, actor := range actors {
		names = append(names, filepath.Base(actor.path))
		if exited, err := actor.process.Exited(); exited || err != nil {
			a.Errorf("%s: its process has ended: %t, %v", actor.path, exited, err)
		}
		conn, err := net.Dial("unix", actor.path)
		if err != nil {
			a.Error(err)
			continue
		}
		conn.Close()
	}
	a.left(names...)
}

// left fails unless these files, and no others, are in both directories together.
func (a *actors) left(want ...string) {
	a.Helper()
	var names []string
	for _, dir := range []string{a.dir, a.custom} {
		entries, err := os.ReadDir(dir)
		if err != nil {
			a.Fatal(err)
		}
		for _, e := range entries {
			names = append(names, e.Name())
		}
	}
	slices.Sort(names)
	slices.Sort(want)
	if !slices.Equal(names, want) {
		a.Errorf("there are %q, want %q", names, want)
	}
}

// reap sweeps tractor's directory, where this one file is dead.
func (a *actors) reap(dead string) {
	a.Helper()
	status, stdout, stderr := sockwatch(a.T, exec.Command("sockwatch", "reap", "--preset", "tractor"))
	if strings.Count(stdout, "removed ") != 1 || !strings.Contains(stdout, "removed   "+dead+"\n") || status != 0 {
		a.Errorf("reap: exit status %d\n%s%s", status, stdout, stderr)
	}
}

// kill ends an actor with SIGKILL.
func (a *actors) kill(actor actor) {
	a.Helper()
	if err := actor.process.Signal(unix.SIGKILL); err != nil {
		a.Fatal(err)
	}
	if err := actor.process.Wait(a.Context()); err != nil {
		a.Fatal(err)
	}
}

// tractor is one life of the root, under a sockwatch run of its own.
type tractor struct {
	*actors
	child    *testutil.Child
	events   *os.File
	lines    *bufio.Reader
	stderr   *os.File
	registry actor
}

// start starts the root, and returns when its registry is claimed.
func (a *actors) start(flags ...string) *tractor {
	a.Helper()
	dir := testutil.TempDir(a)
	fifo := dir + "/events"
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		a.Fatal(err)
	}
	events, err := os.OpenFile(fifo, os.O_RDWR|unix.O_NONBLOCK, 0) // for both: the open does not wait
	if err != nil {
		a.Fatal(err)
	}
	a.Cleanup(func() { events.Close() })
	// A file, and no pipe, which those would hold that live on.
	stderr, err := os.Create(dir + "/stderr")
	if err != nil {
		a.Fatal(err)
	}
	a.Cleanup(func() { stderr.Close() })
	args := slices.Concat([]string{"run", "--events", fifo}, a.flags, flags, []string{"--", "python3", "testdata/tractor.py", "root", a.dir})
	cmd := exec.Command("sockwatch", args...)
	cmd.Env, cmd.Stderr = a.env, stderr
	r := &tractor{
		actors: a, child: testutil.Start(a, cmd),
		events: events, lines: bufio.NewReader(events), stderr: stderr,
	}
	r.registry = r.meet("registry")
	return r
}

// spawn has the root start a child, and returns when its sock-file is claimed.
func (r *tractor) spawn(verb, name, dir string) actor {
	r.Helper()
	r.child.Say(verb + " " + name + " " + dir)
	return r.meet(name)
}

// meet waits until an actor says that it serves, and until that is claimed.
func (r *tractor) meet(name string) actor {
	r.Helper()
	words := strings.Fields(r.child.Line())
	if len(words) != 3 || words[0] != name {
		r.Fatalf("%q, want the word of %s\n%s", words, name, r.complaints())
	}
	pid, err := strconv.Atoi(words[1])
	if err != nil {
		r.Fatal(err)
	}
	p, err := pidfd.Open(pid)
	if err != nil {
		r.Fatal(err)
	}
	r.Cleanup(func() {
		_ = p.Signal(unix.SIGKILL) // the children of a root that was killed are nobody's
		p.Close()
	})
	r.await("claim", words[2])
	return actor{p, words[2]}
}

// removed waits until the sock-file of an actor is removed.
func (r *tractor) removed(actor actor) {
	r.Helper()
	r.await("outcome", actor.path)
	if _, err := os.Lstat(actor.path); !os.IsNotExist(err) {
		r.Errorf("%s: %v", actor.path, err)
	}
}

// await waits for an event about a file.
func (r *tractor) await(kind, path string) {
	r.Helper()
	for {
		if err := r.events.SetReadDeadline(time.Now().Add(3 * time.Minute)); err != nil {
			r.Fatal(err)
		}
		line, err := r.lines.ReadBytes('\n')
		if err != nil {
			r.Fatalf("waiting for a %s of %s: %v\n%s", kind, path, err, r.complaints())
		}
		var e jsonLine
		if err := json.Unmarshal(line, &e); err != nil {
			r.Fatal(err)
		}
		if e.Type == "outcome" && e.Outcome != "removed" {
			r.Errorf("%s", line)
		}
		if e.Type == kind && e.Path == path {
			return
		}
	}
}

type jsonLine struct{ Type, Path, Outcome string }

// end has the root end its children and itself. Nothing is left.
func (r *tractor) end() {
	r.Helper()
	r.child.Hangup()
	r.ends(0)
	r.left()
}

// ends waits for the end of run. It complains only in the words that are wanted, one line for each.
func (r *tractor) ends(status int, words ...string) {
	r.Helper()
	_ = r.child.Cmd.Wait()
	if got := r.child.Cmd.ProcessState.ExitCode(); got != status {
		r.Errorf("run: exit status %d, want %d", got, status)
	}
	said := r.complaints()
	if len(said) != len(words) {
		r.Errorf("run says %q, want %q", said, words)
	}
	for i, want := range words[:min(len(words), len(said))] {
		if !strings.HasPrefix(said[i], want) {
			r.Errorf("run says %q, want %q", said[i], want)
		}
	}
}

// complaints is what run itself has said on standard error.
func (r *tractor) complaints() []string {
	r.Helper()
	said, err := os.ReadFile(r.stderr.Name())
	if err != nil {
		r.Fatal(err)
	}
	var own []string
	for line := range strings.Lines(string(said)) {
		if strings.HasPrefix(line, "sockwatch: ") {
			own = append(own, line)
		}
	}
	return own
}
