package model

import (
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"github.com/sockwatch/sockwatch/internal/testutil"
)

// machine is what there is, as it should be.
type machine struct {
	*rapid.T
	setting
	calm    bool   // all comes to rest after each step: then a failure is the same every time, and can be made short
	base    string // of the directories; what is relative is relative to it
	service service

	processes []*process
	files     []*file
	names     map[string]*file      // what has each name, or had it when somebody last looked and may be removed
	claimed   map[string][]*process // who has claimed a name, whatever is bound there
	spaces    []*process            // of whom ownSpace is a bindspace
	locked    map[string]bool       // directories in which nothing can be changed
	removing  bool                  // something may be under removal just now
	leash     *os.File
	leashEnd  *os.File
}

// setting is what all runs of a property have in common.
type setting struct {
	puppet    *exec.Cmd // never started: what puppets are started as
	places    []string  // directories on several filesystems
	namespace []uintptr // kinds of namespaces that a puppet may have of its own
	root      bool
	strong    bool // the remover has all rights in every directory, whatever its mode
	runs      int
	failed    bool
}

// patience bounds what must come to its end by itself. Nothing comes near it. Once a failure is known, and is made as short as it can be,
// there is no time for so much.
func (s *setting) patience() time.Duration {
	if s.failed {
		return patience / 30
	}
	return patience
}

func newSetting(t *testing.T) setting {
	t.Helper()
	s := setting{puppet: testutil.Command(t, "puppet"), places: []string{testutil.TempDir(t)}, namespace: []uintptr{0}}
	if allowed(t, testutil.Tmpfs) {
		s.places = append(s.places, testutil.Dir(t, testutil.Tmpfs))
	}
	if allowed(t, testutil.UserNS) {
		s.namespace = append(s.namespace, unix.CLONE_NEWUSER|unix.CLONE_NEWNS)
	}
	if s.root = allowed(t, testutil.Root); s.root {
		s.namespace = append(s.namespace, unix.CLONE_NEWNET|unix.CLONE_NEWNS)
	}
	return s
}

// The directories, and a symlink to the first one.
const (
	plain    = "a" // nothing happens here but what somebody claims
	space    = "b" // a bindspace of the service
	ownSpace = "c" // a bindspace of those owners that are registered with it
	alias    = "l"
)

var directories = []string{plain, space, ownSpace}

// namesOf is how many names there are in each directory.
const namesOf = 3

// file is an inode that was made: a sock-file, or something else that nobody may touch.
type file struct {
	number  int
	what    string // "socket", "file" or "symlink"
	kind    string // of a socket
	stream  bool   // it listens, and can be connected with
	ino     uint64
	content string

	names map[string]bool   // that it should have
	past  map[string]bool   // and those that it ever had
	ever  map[*process]bool // who ever had its socket

	claimants map[*process]bool // whose claim it may be
	shared    bool              // that may be whoever has had its socket
	told      map[*process]bool // who has a claim on it that may not have been looked at yet
	claimed   bool              // it is known to be claimed
	swept     bool              // somebody has removed it, as he could
	loose     string            // why nothing can be said of it when it is dead
	displaced bool              // its name was taken at a moment when it was away
}

func (f *file) String() string { return fmt.Sprintf("%s %d", f.what, f.number) }

// say tells a step. It is shown when the property fails.
func (m *machine) say(format string, args ...any) { m.Log("-- " + m.text(format, args)) }

// text is without what is different each time.
func (m *machine) text(format string, args []any) string {
	return strings.ReplaceAll(fmt.Sprintf(format, args...), m.base, "/base")
}

// failure is why a property does not hold. It must be the same text each time that the same is tried.
type failure string

func (f failure) Error() string { return string(f) }

// Fatalf ends the run. Where it is called from does not matter: rapid takes failures from different lines for different ones.
func (m *machine) Fatalf(format string, args ...any) { panic(failure(m.text(format, args))) }

// Fatal is Fatalf of an error.
func (m *machine) Fatal(args ...any) { m.Fatalf("%s", fmt.Sprint(args...)) }

func (m *machine) must(err error) {
	if err != nil {
		m.Fatal(err)
	}
}

// wrongly ends the run, and tells what there is.
func (m *machine) wrongly(format string, args ...any) {
	m.Log(m.describe())
	m.Fatalf(format, args...)
}

func (m *machine) path(name string) string { return filepath.Join(m.base, name) }

// holders are those that keep a socket alive.
func (m *machine) holders(f *file) (holders []*process) {
	for _, p := range m.processes {
		if p.holds(f) {
			holders = append(holders, p)
		}
	}
	return holders
}

func (m *machine) alive(f *file) bool {
	return f.what == "socket" && slices.ContainsFunc(m.processes, func(p *process) bool { return p.holds(f) })
}

// fate is what must have become of a name.
type fate int

const (
	stays  fate = iota // it must be there
	goes               // it must be gone as soon as all is quiet
	either             // it may be there
)

// fate tells what is known of a file's names.
//
// A live socket's stay, and so does what nobody has claimed. A dead one's go when it is known to be claimed and every process is dead whose
// claim it may be: a claim waits for the end of its owner, and who that is may be decided by who is looked at first. In between they
// may be there, and also
//   - when they were claimed by name, and the owner was dead before anybody had looked whether it was his;
//   - when they were moved to another directory than that of the claim, or linked there;
//   - when the owner has bound another one under the name, which supersedes the claim;
//   - when the remover had no right to the directory or the file at some time.
func (m *machine) fate(f *file) fate {
	switch {
	case f.what != "socket", m.alive(f):
		return stays
	case f.swept, f.claimed && f.loose == "" && !slices.ContainsFunc(slices.Collect(maps.Keys(f.claimants)), (*process).lives):
		return goes
	case len(f.claimants) > 0 || f.loose != "" || f.claimed:
		return either
	}
	return stays
}

func (p *process) lives() bool { return !p.dead }

// loosen notes that nothing can be said any more of when a file goes.
func (f *file) loosen(why string) {
	if f.loose == "" {
		f.loose = why
	}
	f.told = map[*process]bool{}
}

// acquired notes that a process has its socket.
func (f *file) acquired(p *process) {
	f.ever[p] = true
	if f.shared {
		f.claimants[p] = true
	}
}

// share notes that it may be claimed for whoever has, or has had, its socket.
func (f *file) share() {
	f.shared = true
	maps.Copy(f.claimants, f.ever)
}

// touch is for something that is done to a file's names. What was not looked at yet may not be found any more.
func (f *file) touch() {
	if len(f.told) > 0 && !f.claimed {
		f.loosen("its name was changed before anybody had looked")
	}
}

// add notes an inode under a name.
func (m *machine) add(name, what string) *file {
	f := &file{
		number: len(m.files), what: what, names: map[string]bool{name: true}, past: map[string]bool{name: true},
		ever: map[*process]bool{}, claimants: map[*process]bool{}, told: map[*process]bool{},
	}
	m.files = append(m.files, f)
	m.named(f, name)
	return f
}

// named notes that a file has a name: it may be taken for what is claimed there.
func (m *machine) named(f *file, name string) {
	if old := m.names[name]; old != nil {
		m.unnamed(old, name)
	}
	for _, other := range m.files {
		if other != f && other.past[name] && len(other.claimants) > 0 {
			other.loosen("another file has a name that it had")
		}
	}
	m.names[name] = f
	f.names[name], f.past[name] = true, true
	if f.what != "socket" {
		return
	}
	for _, p := range m.claimed[name] {
		f.claimants[p] = true
		f.share()
	}
}

// unnamed notes that a file has lost a name.
func (m *machine) unnamed(f *file, name string) {
	f.touch()
	delete(f.names, name)
	if m.names[name] == f {
		delete(m.names, name)
	}
}

// lastWords decides on what was claimed for a process that is just ending, and may not have been looked at.
func (m *machine) lastWords(p *process) {
	for _, f := range m.files {
		if !f.told[p] {
			continue
		}
		delete(f.told, p)
		others := slices.DeleteFunc(m.holders(f), func(h *process) bool { return h == p })
		if len(others) == 0 && f.loose == "" {
			f.claimed = true // what is dead then is removed, whoever has made it
		} else if !f.claimed {
			f.loosen("its owner died before anybody had looked")
		}
	}
	m.removing = true
}

// try makes a world, does things to it at random, and lets everybody in it die.
func (s *setting) try(t *rapid.T, serve func(m *machine) service, more func(m *machine) map[string]func()) (err error) {
	s.runs++
	m := &machine{T: t, setting: *s, names: map[string]*file{}, claimed: map[string][]*process{}, locked: map[string]bool{}}
	defer func() {
		r := recover()
		m.end()
		if f, ok := r.(failure); ok {
			err = f
			s.failed = true
		} else if r != nil {
			panic(r)
		}
	}()
	m.calm = rapid.Bool().Draw(t, "calm")
	m.base = filepath.Join(s.places[rapid.IntRange(0, len(s.places)-1).Draw(t, "filesystem")], fmt.Sprint(s.runs))
	for _, dir := range directories {
		m.must(os.MkdirAll(m.path(dir), 0o700))
	}
	m.must(os.Symlink(plain, m.path(alias)))
	m.leash, m.leashEnd, err = os.Pipe()
	m.must(err)
	m.service = serve(m)
	t.Repeat(m.actions(more(m)))
	m.finish()
	return m.service.stop()
}

// end clears all away, whatever has happened.
func (m *machine) end() {
	m.endProcesses()
	if m.service != nil {
		m.service.close()
	}
	if m.leash != nil {
		m.leash.Close()
		m.leashEnd.Close()
	}
	for _, dir := range directories {
		_ = os.Chmod(m.path(dir), 0o700)
	}
	if err := os.RemoveAll(m.base); err != nil {
		m.Error(err)
	}
}

// describe tells what there is.
func (m *machine) describe() string {
	var b strings.Builder
	for _, p := range m.processes {
		if !p.dead {
			fmt.Fprintf(&b, "%s is process %d\n", p, p.pid)
		}
	}
	for _, f := range m.files {
		if len(f.names) > 0 {
			fmt.Fprintf(&b, "%s: inode %d, names %v, held by %v, claimed %v, perhaps by %v; %s\n", f, f.ino,
				slices.Sorted(maps.Keys(f.names)), m.holders(f), f.claimed, slices.Collect(maps.Keys(f.claimants)), f.loose)
		}
	}
	for _, dir := range directories {
		entries, _ := os.ReadDir(m.path(dir))
		fmt.Fprintf(&b, "%s: %v\n", dir, entries)
	}
	return b.String() + m.service.describe()
}
