package model

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"github.com/sockwatch/sockwatch/pidfd"
	"github.com/sockwatch/sockwatch/reap"
	"github.com/sockwatch/sockwatch/spawn"
)

// mostProcesses is how many live at once.
const mostProcesses = 5

// actions are what can happen, whoever removes.
func (m *machine) actions(more map[string]func()) map[string]func(*rapid.T) {
	actions := map[string]func(){
		"start": m.start, "bind": m.bind, "bind again": m.bind, "restart": m.restart, "listen": m.listen, "close": m.close,
		"fork": m.forkOne, "spawn": m.spawnOne, "exec": m.exec, "pass": m.pass, "receive": m.receive,
		"rename": m.rename, "link": m.link, "replace": m.replace, "remove": m.remove, "chmod": m.chmod, "lock": m.lock,
		"kill": m.kill, "kill again": m.kill, "exit": m.exit, "hard kill": m.hardKill,
		"watch": m.watch, "watch more": m.watch, "claim": m.claim, "snapshot": m.snapshot, "report": m.report,
		"sweep": m.sweep, "settle": m.settle,
	}
	maps.Copy(actions, more)
	wrapped := map[string]func(*rapid.T){"": func(*rapid.T) { m.check() }}
	for name, action := range actions {
		wrapped[name] = func(*rapid.T) { action() }
	}
	return wrapped
}

func (m *machine) draw(label string, most int) int { return rapid.IntRange(0, most).Draw(m.T, label) }

// one draws one of those that there are. Without any the action is none.
func one[E any](m *machine, label string, of []E) (e E) {
	if len(of) == 0 {
		m.Skip("none")
	}
	return of[m.draw(label, len(of)-1)]
}

// living draws a process that is as wanted.
func (m *machine) living(wanted func(*process) bool) *process {
	var some []*process
	for _, p := range m.processes {
		if !p.dead && wanted(p) {
			some = append(some, p)
		}
	}
	return one(m, "process", some)
}

// sockets are what a process has, in order.
func (p *process) sockets() []*file {
	return slices.SortedFunc(maps.Keys(p.pins), func(a, b *file) int { return a.number - b.number })
}

func hasSockets(p *process) bool { return p.obeys() && len(p.pins) > 0 }
func anybody(*process) bool      { return true }
func (m *machine) room() {
	n := 0
	for _, p := range m.processes {
		if !p.dead {
			n++
		}
	}
	if n >= mostProcesses {
		m.Skip("enough processes")
	}
}

// aName draws a name.
func (m *machine) aName(label string) string {
	return directories[m.draw(label+"'s directory", len(directories)-1)] + "/s" + strconv.Itoa(m.draw(label, namesOf-1))
}

// open draws a name where something can be changed.
func (m *machine) open(label string) string {
	name := m.aName(label)
	if m.locked[filepath.Dir(name)] {
		m.Skip("locked")
	}
	return name
}

// form is a path that leads to a name.
func (m *machine) form(name string) string {
	switch m.draw("path", 3) {
	case 1:
		return m.path(name)
	case 2:
		if filepath.Dir(name) == plain {
			return filepath.Join(m.base, alias, filepath.Base(name))
		}
	case 3:
		if filepath.Dir(name) == plain {
			return filepath.Join(alias, filepath.Base(name))
		}
	}
	return name
}

// absolute is form of a path that is absolute.
func (m *machine) absolute(name string) string {
	path := m.form(name)
	if !filepath.IsAbs(path) {
		path = m.path(path)
	}
	return path
}

// existing draws a name that something has, or may have, where something can be changed.
func (m *machine) existing() (name string, f *file) {
	var names []string
	for _, name := range slices.Sorted(maps.Keys(m.names)) {
		if !m.locked[filepath.Dir(name)] {
			names = append(names, name)
		}
	}
	name = one(m, "name", names)
	return name, m.names[name]
}

// changes does what changes a name that exists. It tells whether it was there: that may be open, and where it is not, it may be away only
// for a moment, while somebody looks at it.
func (m *machine) changes(f *file, change func() error) bool {
	err := change()
	if errors.Is(err, fs.ErrNotExist) && m.fate(f) != stays {
		return false
	}
	if errors.Is(err, fs.ErrNotExist) {
		m.settle()
		err = change()
	}
	m.must(err)
	return true
}

func (m *machine) start() {
	m.room()
	namespaces := one(m, "namespaces", m.namespace)
	m.launch(namespaces)
	p := m.processes[len(m.processes)-1]
	switch namespaces {
	case 0:
		m.say("%s starts", p)
	case unix.CLONE_NEWUSER | unix.CLONE_NEWNS:
		m.say("%s starts in a user and a mount namespace of its own", p)
	default:
		m.say("%s starts in a network and a mount namespace of its own", p)
	}
}

// starting is for what needs a process.
func (m *machine) starting(wanted func(*process) bool) *process {
	if !slices.ContainsFunc(m.processes, wanted) {
		m.room()
		m.launch(0)
		m.say("%s starts", m.processes[len(m.processes)-1])
	}
	return m.living(wanted)
}

func (m *machine) bind() { m.bindOne(false) }

// restart is what servers do: what is in the way is removed.
func (m *machine) restart() { m.bindOne(true) }

func (m *machine) bindOne(clearing bool) {
	name := m.open("name")
	path, kind := m.form(name), one(m, "type", kinds)
	old := m.names[name]
	if clearing && old != nil && old.what != "socket" {
		m.Skip("not its own")
	}
	p := m.starting((*process).obeys)
	step, order := "binds", fmt.Sprintf("bind %d %s %s", len(m.files), kind, path)
	if clearing {
		step, order = "clears and binds", order+" clear"
	}
	m.say("%s %s %s (%s)", p, step, path, kind)
	answer, err := m.try(p, order)
	switch {
	case errors.Is(err, unix.EADDRINUSE) && old != nil && m.fate(old) == goes && !clearing:
		m.say("%s: it is not gone yet", p)
		return
	case errors.Is(err, unix.EADDRINUSE) && old != nil && !clearing:
		m.say("%s: it is there already", p)
		return
	case err != nil:
		m.Fatalf("%s %s %s: %v; the name is that of %v", p, step, path, err, old)
	}
	if old != nil && !clearing && m.fate(old) == stays {
		if !m.removing {
			m.Fatalf("%s binds %s, which should be there: %s", p, path, old)
		}
		// It was away for a moment, for somebody who was about to remove what had the name before to look at it.
		old.displaced = true
	}
	f := m.add(name, "socket")
	f.kind = kind
	p.pins[f] = m.descriptors(answer)
	f.acquired(p)
	f.ino = m.stat(p, f).Ino
	f.told[p] = slices.Contains(m.claimed[name], p)
	switch filepath.Dir(name) {
	case space: // whatever dies there is removed
		f.share()
		f.claimed = true
	case ownSpace:
		for _, owner := range m.spaces {
			f.share()
			f.claimants[owner] = true
		}
		living := slices.ContainsFunc(m.spaces, (*process).lives)
		if living && m.service.up() && m.draw("wait", 1) == 1 {
			m.awaitKnown(f)
		}
	}
	if f.told[p] && m.service.up() && m.draw("wait", 1) == 1 {
		m.awaitKnown(f)
	}
}

// awaitKnown waits until a live file is claimed that must come to be so.
func (m *machine) awaitKnown(f *file) {
	if !m.service.await(func() bool { return m.service.known(f) }) {
		m.wrongly("%s is not claimed", f)
	}
	m.say("%s is claimed", f)
	f.claimed = true
	f.told = map[*process]bool{}
}

func (m *machine) listen() {
	p := m.living(hasSockets)
	f := one(m, "socket", p.sockets())
	if f.kind == "dgram" {
		m.Skip("no listener")
	}
	m.say("%s listens on %s", p, f)
	m.do(p, fmt.Sprintf("listen %d", f.number))
	f.stream = f.kind == "stream"
}

func (m *machine) close() {
	p := m.living(hasSockets)
	f := one(m, "socket", p.sockets())
	m.say("%s closes %s", p, f)
	m.do(p, fmt.Sprintf("close %d", f.number))
	m.closed(p, f)
}

// closed notes that a process has a socket no more, and lives on. Its claim of the name means what it is seen to have.
func (m *machine) closed(p *process, f *file) {
	if f.told[p] && !f.claimed {
		f.loosen("its owner closed the socket before anybody had looked")
	}
	delete(p.pins, f)
}

func (m *machine) forkOne() {
	m.room()
	p := m.living((*process).obeys)
	child := m.fork(p)
	m.say("%s forks: %s has %v", p, child, child.sockets())
}

// some draws some of a process's sockets.
func (m *machine) some(p *process) (some []*file) {
	which := m.draw("which", 1<<min(len(p.pins), 4)-1)
	for i, f := range p.sockets() {
		if which&(1<<i) != 0 {
			some = append(some, f)
		}
	}
	return some
}

func (m *machine) spawnOne() {
	m.room()
	p := m.living((*process).obeys)
	files := m.some(p)
	child := m.spawn(p, files)
	m.say("%s starts %s, which inherits %v", p, child, files)
}

func (m *machine) exec() {
	p := m.living((*process).obeys)
	m.receiveAll(p)
	files := m.some(p)
	m.say("%s executes a program, which has %v; close-on-exec are %v", p, files,
		slices.DeleteFunc(p.sockets(), func(f *file) bool { return slices.Contains(files, f) }))
	if _, err := p.orders.WriteString("exec " + numbers(files) + "\n"); err != nil {
		m.Fatal(err)
	}
	m.expectReady(p)
	for _, f := range p.sockets() {
		if !slices.Contains(files, f) {
			m.closed(p, f)
		}
	}
}

func (m *machine) pass() {
	from := m.living(hasSockets)
	f := one(m, "socket", from.sockets())
	to := m.living((*process).obeys)
	m.receiveAll(from)
	m.say("%s sends %s to %s", from, f, to)
	// The other's end of the mail goes to the sender, so that we never have what is sent.
	m.must(unix.Sendmsg(from.mail, []byte("to"), unix.UnixRights(to.mail), nil, 0))
	m.do(from, fmt.Sprintf("send %d", f.number))
	to.queued = append(to.queued, f)
	f.acquired(to)
	if m.draw("queued", 3) != 3 { // most are received at once: what is queued is looked at again only now and then
		m.say("%s receives %s", to, f)
		m.receiveAll(to)
	}
}

func (m *machine) receive() {
	p := m.living(func(p *process) bool { return len(p.queued) > 0 })
	m.say("%s receives %v", p, p.queued)
	m.receiveAll(p)
}

func (m *machine) rename() {
	from, f := m.existing()
	to := m.open("to")
	over := m.names[to]
	if f == over || over != nil && over.what != "socket" {
		m.Skip("nothing to do")
	}
	m.say("%s is renamed to %s", from, to)
	if !m.changes(f, func() error { return os.Rename(m.path(from), m.path(to)) }) {
		m.say("%s is gone already", from)
		return
	}
	m.moved(f, from, to)
	m.unnamed(f, from)
	m.named(f, to)
}

// moved notes what a new name means for what is known of a file.
func (m *machine) moved(f *file, from, to string) {
	f.touch()
	switch {
	case filepath.Dir(from) != filepath.Dir(to):
		f.loosen("it has a name in another directory")
	case filepath.Dir(from) == ownSpace:
		f.loosen("it was moved in a bindspace, whose owner may be dead")
	case m.fate(f) != stays:
		f.loosen("it was moved when it was dead, and so perhaps while it was being removed")
	}
	switch filepath.Dir(to) {
	case space:
		f.share()
	case ownSpace:
		for _, owner := range m.spaces {
			f.share()
			f.claimants[owner] = true
		}
	}
}

func (m *machine) link() {
	from, f := m.existing()
	to := m.open("to")
	if m.names[to] != nil {
		m.Skip("it is there")
	}
	if m.fate(f) != stays {
		m.Skip("it may be gone")
	}
	m.say("%s is linked as %s", from, to)
	m.changes(f, func() error { return os.Link(m.path(from), m.path(to)) })
	m.moved(f, from, to)
	if filepath.Dir(from) != plain || f.what == "socket" && !f.claimed {
		f.loosen("it has two names, and may not have been seen alive")
	}
	m.named(f, to)
}

// replace puts something else in a name's place.
func (m *machine) replace() {
	name := m.open("name")
	if old := m.names[name]; old != nil {
		m.removeName(old, name)
	}
	what := one(m, "by", []string{"file", "symlink"})
	content := fmt.Sprintf("what is left of %d", len(m.files))
	m.say("%s is made: a %s", name, what)
	if what == "file" {
		m.must(os.WriteFile(m.path(name), []byte(content), 0o600))
	} else {
		m.must(os.Symlink(content, m.path(name)))
	}
	f := m.add(name, what)
	f.content = content
	var st unix.Stat_t
	m.must(unix.Lstat(m.path(name), &st))
	f.ino = st.Ino
}

func (m *machine) remove() {
	name, f := m.existing()
	m.say("%s is removed", name)
	m.removeName(f, name)
}

func (m *machine) removeName(f *file, name string) {
	if !m.changes(f, func() error { return os.Remove(m.path(name)) }) {
		m.say("%s is gone already", name)
	}
	m.unnamed(f, name)
}

// hinder notes that the remover may not have the rights to do anything.
func (m *machine) hinder(f *file) {
	f.touch()
	if !m.strong {
		f.loosen("the remover may have had no right to it")
		f.swept = false
	}
}

// chmod takes all rights to a sock-file away, or gives them.
func (m *machine) chmod() {
	name, f := m.existing()
	if f.what != "socket" {
		m.Skip("no socket")
	}
	mode := one(m, "mode", []os.FileMode{0, 0o777})
	m.say("%s has mode %o", name, mode)
	if m.changes(f, func() error { return os.Chmod(m.path(name), mode) }) {
		m.hinder(f)
	}
}

// lock takes the right away to change a directory, or gives it back.
func (m *machine) lock() {
	dir := one(m, "directory", directories[:2])
	mode := os.FileMode(0o500)
	if m.locked[dir] {
		mode = 0o700
	}
	m.say("%s has mode %o", dir, mode)
	m.must(os.Chmod(m.path(dir), mode))
	m.locked[dir] = !m.locked[dir]
	for _, f := range m.files {
		for name := range f.names {
			if filepath.Dir(name) == dir {
				m.hinder(f)
			}
		}
	}
}

func (m *machine) kill() {
	p := m.living(anybody)
	m.say("%s is killed", p)
	m.must(p.handle.Signal(unix.SIGKILL))
	m.ended(p)
}

func (m *machine) exit() {
	p := m.living((*process).obeys)
	m.say("%s exits", p)
	if _, err := p.orders.WriteString("exit 3\n"); err != nil {
		m.Fatal(err)
	}
	m.ended(p)
}

// hardKill is the kill that removes what the process leaves behind, whoever watches it.
func (m *machine) hardKill() {
	p := m.living(func(p *process) bool { return p.cmd != nil })
	m.say("%s is hard-killed", p)
	options := spawn.KillOptions{TerminateAfter: -1}
	if m.draw("ask", 1) == 1 {
		options.TerminateAfter = patience
	}
	held := p.sockets()
	handle, err := pidfd.Open(p.pid)
	m.must(err)
	r := spawn.HardKill(m.Context(), handle, options, reap.Target{})
	handle.Close()
	if r.Err != nil {
		m.Fatalf("hard kill of %s: %v", p, r.Err)
	}
	m.ended(p)
	for _, f := range held {
		dirs := map[string]bool{}
		for name := range f.past {
			dirs[filepath.Dir(name)] = true
		}
		if !m.alive(f) && len(dirs) == 1 && !m.hindered(f) && r.SnapshotErr == nil {
			f.swept = true
		}
		f.claimants[p] = true
	}
}

// hindered tells whether somebody without special rights may have been denied something of a file.
func (m *machine) hindered(f *file) bool {
	return !m.root && (f.loose != "" || slices.ContainsFunc(slices.Collect(maps.Keys(f.names)), func(name string) bool { return m.locked[filepath.Dir(name)] }))
}

// watch registers a process, before or after it has bound something.
func (m *machine) watch() {
	if !m.service.up() {
		m.Skip("nobody there")
	}
	var paths, names, spaces []string
	for range m.draw("names", 2) {
		name := m.aName("name")
		if slices.Contains(names, name) {
			continue
		}
		names, paths = append(names, name), append(paths, m.absolute(name))
	}
	if m.draw("bindspace", 2) == 2 {
		spaces = append(spaces, m.path(ownSpace))
	}
	if slices.ContainsFunc(names, func(name string) bool { return m.names[name] != nil && m.names[name].what != "socket" }) {
		m.Skip("the daemon refuses it")
	}
	p := m.starting(func(p *process) bool {
		return !p.dead && !p.watched && (len(spaces) == 0 || m.service.takesSpaces(p))
	})
	m.say("%s is watched, with %v, bindspaces %v", p, paths, spaces)
	for _, name := range names {
		m.claims(p, name)
	}
	if len(spaces) > 0 {
		m.spaces = append(m.spaces, p)
		for _, f := range m.files { // what is there already may be its own, or a descendant's
			if slices.ContainsFunc(slices.Collect(maps.Keys(f.past)), func(name string) bool { return filepath.Dir(name) == ownSpace }) {
				f.share()
				f.claimants[p] = true
			}
		}
	}
	p.watched = true
	if m.service.watch(p, paths, spaces) {
		m.held(p)
	}
}

// claims notes that a process claims a name. What has it now may be taken for its own.
func (m *machine) claims(p *process, name string) {
	m.claimed[name] = append(m.claimed[name], p)
	if f := m.names[name]; f != nil && f.what == "socket" {
		f.share()
		f.claimants[p] = true
	}
}

// held notes that all that a process holds was claimed.
func (m *machine) held(p *process) {
	for f := range p.pins {
		f.claimants[p] = true
		if f.loose == "" && len(f.names) > 0 {
			f.claimed = true
		}
	}
}

func (m *machine) claim() {
	if !m.service.up() {
		m.Skip("nobody there")
	}
	p := m.living(func(p *process) bool { return p.watched })
	name := m.aName("name")
	if f := m.names[name]; f != nil && f.what != "socket" {
		m.Skip("the daemon refuses it")
	}
	path := m.absolute(name)
	m.say("%s is claimed for %s", path, p)
	m.claims(p, name)
	m.service.claim(p, path)
}

func (m *machine) snapshot() {
	if !m.service.up() {
		m.Skip("nobody there")
	}
	p := m.living(func(p *process) bool { return p.watched })
	m.say("what %s holds is claimed: %v", p, p.sockets())
	m.service.snapshot(p)
	m.held(p)
	for f := range p.pins {
		if f.claimed && f.loose == "" && len(f.names) > 0 && !m.service.known(f) {
			m.wrongly("%s is not claimed", f)
		}
	}
}

func (m *machine) report() {
	if !m.service.up() {
		m.Skip("nobody there")
	}
	p := m.living(hasSockets)
	f := one(m, "socket", p.sockets())
	var names []string
	for name := range f.names {
		names = append(names, name)
	}
	slices.Sort(names)
	name := one(m, "name", names)
	if m.locked[filepath.Dir(name)] || f.loose != "" {
		m.Skip("it may not be found")
	}
	path := m.form(name)
	m.say("%s reports %s", p, path)
	f.claimants[p] = true
	f.share()
	m.do(p, "report "+path)
	if m.draw("wait", 1) == 1 {
		m.awaitKnown(f)
	} else if m.service.keepsReports() {
		f.told[p] = true
	}
}

func (m *machine) sweep() {
	dir := one(m, "directory", directories)
	m.say("%s is swept", dir)
	for r := range reap.Sweep(context.Background(), reap.SweepOptions{}, m.path(dir)) {
		if r.Outcome == reap.OutcomeFailed {
			m.Fatalf("sweep: %+v", r)
		}
	}
	for _, f := range m.files {
		one := len(f.names) == 1
		for name := range f.names {
			if filepath.Dir(name) == dir && one && f.what == "socket" && !m.alive(f) && (m.root || f.loose == "" && !m.locked[dir]) {
				f.swept = true
			}
		}
	}
}
