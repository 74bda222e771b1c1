//go:build failpoints

package faults

import (
	"bytes"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// errnos are the errors of the kernel that each point is given.
var errnos = []unix.Errno{
	unix.EIO, unix.ENOSPC, unix.EMFILE, unix.ENFILE, unix.ENOMEM, unix.EROFS, unix.EPERM, unix.ESTALE, unix.EACCES,
}

// all has every error at every point. Else the errors take turns.
var all = os.Getenv("SOCKWATCH_FAULTS") == "all"

// scenario is something that the program is to do, and to be disturbed in at every point.
type scenario struct {
	name   string
	set    func(*scene)
	args   []string     // of the program, before the directory
	faults string       // a fault that belongs to the scenario
	during func(*scene) // happens while the program is stopped
	aged   bool         // what has a private name must be a second old
	in     string       // where its directory is to be, in that of the program
}

var scenarios = []scenario{
	{name: "dead", set: func(s *scene) { s.kill("a.sock") }},
	{name: "live", set: func(s *scene) { s.bind("a.sock") }},
	{name: "mixed", set: func(s *scene) {
		for i := range 3 {
			s.kill(fmt.Sprintf("dead%d.sock", i))
			s.bind(fmt.Sprintf("live%d.sock", i))
		}
	}},
	// A link that a sweep does not know the reason of.
	{name: "linked", set: func(s *scene) {
		s.kill("a.sock")
		s.must(os.Link(s.path("a.sock"), s.path("b.sock")))
		s.dead, s.kept = nil, []string{"a.sock", "b.sock"}
	}},
	// What is dead here may be alive in a container, whatever keeps the program from seeing where it is.
	{name: "layer", in: "data/docker", set: func(s *scene) {
		s.kill("a.sock")
		s.dead, s.kept = nil, []string{"a.sock"}
	}},
	{name: "below", args: []string{"-r"}, set: func(s *scene) {
		s.must(os.MkdirAll(s.path("sub/sub"), 0o700))
		s.bind("live.sock")
		s.kill("sub/dead.sock")
		s.bind("sub/sub/live.sock")
		s.kill("sub/sub/dead.sock")
	}},
	// Another server's file has the name when it is renamed: it gets it back.
	{name: "replaced", set: func(s *scene) { s.kill("a.sock") }, faults: "renameat2:1=stop", during: func(s *scene) {
		s.must(unix.Unlink(s.path("a.sock")))
		s.bind("a.sock")
	}},
	// As above, where RENAME_NOREPLACE is not known.
	{name: "replaced without NOREPLACE", set: func(s *scene) { s.kill("a.sock") }, faults: "renameat2=EINVAL,renameat:1=stop", during: func(s *scene) {
		s.must(unix.Unlink(s.path("a.sock")))
		s.bind("a.sock")
	}},
	{name: "dead without NOREPLACE", set: func(s *scene) {
		s.kill("a.sock")
		s.bind("b.sock")
	}, faults: "renameat2=EINVAL"},
	{name: "leftovers", aged: true, set: func(s *scene) {
		s.kill("a.sock")
		s.hide("a.sock", ".sockwatch-DEADDEADDEADDEAD")
		s.bind("b.sock")
		s.hide("b.sock", ".sockwatch-LIVELIVELIVELIVE")
	}},
	{name: "leftovers without NOREPLACE", aged: true, faults: "renameat2=EINVAL", set: func(s *scene) {
		s.bind("b.sock")
		s.hide("b.sock", ".sockwatch-LIVELIVELIVELIVE")
		// From a removal that was killed between making a link and removing the other name.
		s.bind("c.sock")
		s.must(os.Link(s.path("c.sock"), s.path(".sockwatch-LINKLINKLINKLINK")))
	}},
}

// TestRemove has every scenario disturbed at each of its points.
func TestRemove(t *testing.T) {
	build(t)
	for _, c := range scenarios {
		t.Run(strings.ReplaceAll(c.name, " ", "-"), func(t *testing.T) {
			t.Parallel()
			p := play{scenario: c, t: t}
			defer p.end()
			points := p.everywhere("kill")
			t.Logf("killed at each of %d points", points)
			if all {
				for _, errno := range errnos {
					p.everywhere(unix.ErrnoName(errno))
				}
			} else {
				turn := slices.IndexFunc(scenarios, func(o scenario) bool { return o.name == c.name })
				p.faultsInTurn(turn)
			}
			settle(t, p.done)
			t.Logf("%d runs", len(p.done))
		})
	}
}

// play is a scenario that is being played.
type play struct {
	scenario
	t     testing.TB
	stock []*scene // set, for the next runs
	done  []*scene
}

func (p *play) end() {
	for _, s := range append(p.stock, p.done...) {
		s.close()
	}
}

// scene gives one that is set. They are set by the dozen where they have to grow old.
func (p *play) scene() *scene {
	if len(p.stock) == 0 {
		n := 1
		if p.aged {
			n = 60
		}
		for range n {
			s := newScene(p.t, p.in)
			p.set(s)
			p.stock = append(p.stock, s)
		}
		age(p.stock)
	}
	s := p.stock[0]
	p.stock = p.stock[1:]
	return s
}

// everywhere runs the scenario with a fault at its first point, its second, and so on. It tells how many there are.
func (p *play) everywhere(fault string) (points int) {
	p.t.Helper()
	for n := 1; p.run(n, fault); n++ {
		points = n
	}
	return points
}

// faultsInTurn has one of the errors at each point.
func (p *play) faultsInTurn(first int) {
	for n := 1; p.run(n, unix.ErrnoName(errnos[(first+n)%len(errnos)])); n++ {
	}
}

// run runs the scenario once, with a fault at its nth point, and looks at what became of it. It tells whether there was one.
func (p *play) run(n int, fault string) (fired bool) {
	p.t.Helper()
	s := p.scene()
	p.done = append(p.done, s)
	faults := fmt.Sprintf("*:%d=%s", n, fault)
	if p.faults != "" {
		faults += "," + p.faults
	}
	cmd := command(p.t, faults, append(append([]string{"reap"}, p.args...), s.dir)...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr, cmd.WaitDelay = &stdout, &stderr, patience
	s.must(cmd.Start())
	if p.during != nil && awaitStop(cmd.Process.Pid) == nil {
		p.during(s)
		s.must(cmd.Process.Signal(unix.SIGCONT))
	}
	e := await(p.t, cmd, &stdout, &stderr)
	now := s.look(e)
	fired = slices.ContainsFunc(e.faults, func(f string) bool { return strings.HasPrefix(f, fmt.Sprintf("%d ", n)) })
	if fired && !e.killed && !answer(e) {
		s.told(e, now, errnoOf(fault))
	}
	return fired
}

// answer tells whether the fault was none: by EPERM connect(2) says that somebody is there.
func answer(e ended) bool {
	return slices.ContainsFunc(e.faults, func(f string) bool { return strings.HasSuffix(f, " connect: EPERM") })
}

func errnoOf(name string) unix.Errno {
	return errnos[slices.IndexFunc(errnos, func(e unix.Errno) bool { return unix.ErrnoName(e) == name })]
}

// TestNoFreeName has every private name taken.
func TestNoFreeName(t *testing.T) {
	s := newScene(t, "")
	s.kill("a.sock")
	e := sockwatch(t, "renameat2=EEXIST", "reap", s.dir)
	s.told(e, s.look(e), unix.EEXIST)
	settle(t, []*scene{s})
}
