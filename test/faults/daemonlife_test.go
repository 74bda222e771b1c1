//go:build failpoints

package faults

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/sockwatch/sockwatch/client"
	"github.com/sockwatch/sockwatch/internal/testutil"
)

// plan are the faults of the daemons that are one after the other: of those that begin with nothing, and of those that take up the
// records of one that was killed. When there are no more, a daemon has none.
type plan struct{ before, after []string }

// life is a scenario with servers and daemons. It goes on whatever becomes of a daemon: who has no answer asks the next one.
//
// What it is told is done is a promise. At the end, with a daemon that has no faults, all promises are to hold.
type life struct {
	t     *testing.T
	plan  plan
	user  hand
	base  string
	bell  bell
	ctx   context.Context
	watch *os.File // inotify

	daemon   *running
	client   *client.Client
	watching sync.WaitGroup // for outcomes

	servers []*server
	files   map[string]*file
	fired   []string // what the faults were
	refused []string // requests, and the daemon's word for it

	mu   sync.Mutex
	told map[string]client.Event // the outcome of a path, the latest
}

// file is a sock-file that a server has bound.
type file struct {
	server   *server
	ino      uint64
	promised bool // to be removed after its server's death
	keep     bool // nobody is to remove it
}

// liveIn plays the scenario once in a new directory below dir, with the servers and the client of a user. It tells which faults
// there were.
func liveIn(t *testing.T, dir string, user hand, uid int, p plan) *life {
	t.Helper()
	build(t)
	base, err := os.MkdirTemp(dir, "")
	must(t, err)
	must(t, os.Chmod(base, 0o755))
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	l := &life{
		t: t, plan: p, user: user, base: base, bell: make(bell, 1), ctx: ctx,
		files: map[string]*file{}, told: map[string]client.Event{},
	}
	defer func() {
		cancel()
		if t.Failed() {
			t.Logf("faults %+v: %q; refused: %q", p, l.fired, l.refused)
		}
		l.end()
		must(t, os.RemoveAll(base))
	}()
	for _, name := range []string{"u", "n", "s", "c"} {
		must(t, os.Mkdir(l.path(name), 0o755))
		must(t, os.Chown(l.path(name), uid, -1))
	}
	config := fmt.Sprintf("[[bindspace]]\npath = %q\nsweep = true\n", l.path("c"))
	must(t, os.WriteFile(l.path("config"), []byte(config), 0o600))
	must(t, l.watchNames())
	l.play()
	return l
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func (l *life) path(name string) string { return filepath.Join(l.base, name) }

// play is the scenario.
func (l *life) play() {
	l.t.Helper()
	l.revive()

	// What is held when it is registered, what is claimed before it is there, and what is claimed one by one.
	a := l.serve([]string{"u/a1"}, []string{"u/a2", "u/a3"})
	id, watched := l.register(a, 2, client.WatchRequest{Paths: []string{l.path("u/a1"), l.path("u/a2")}})
	claimed := watched && l.request("claim", func() error { return l.client.Claim(l.ctx, id, l.path("u/a3")) })
	l.bindMore(a)
	l.promise(watched, "u/a1", "u/a2")
	l.promise(claimed, "u/a3")

	// What is bound later in a bindspace. Of this nobody is told, so it is promised when it is in the record.
	b := l.serve([]string{"u/b1"}, []string{"s/b2"})
	_, watched = l.register(b, 1, client.WatchRequest{Bindspaces: []string{l.path("s")}})
	l.promise(watched, "u/b1")
	if watched {
		l.promise(l.recorded("s/b2", func() { l.bindMore(b) }, nil), "s/b2")
	}

	// What is found in a bindspace of the configuration, and what is reported.
	var c *server
	l.promise(l.recorded("c/c1", func() { c = l.serve([]string{"c/c1"}, nil) }, nil), "c/c1")
	n := l.serve([]string{"n/n1"}, nil)
	l.promise(l.recorded("n/n1", nil, func() { l.report(n, "n/n1") }), "n/n1")

	// What is not to be removed any more.
	k := l.serve([]string{"u/k1", "u/k2"}, nil)
	id, watched = l.register(k, 2, client.WatchRequest{Name: "k"})
	l.promise(watched, "u/k2")
	l.keep(watched && l.request("release", func() error {
		released, err := l.client.Release(l.ctx, id, l.path("u/k1"))
		if err == nil && !released {
			err = errors.New("a claim of a live process is not released")
		}
		return err
	}, client.ErrNoSuchClaim), "u/k1")
	w := l.serve([]string{"u/w1"}, nil)
	id, watched = l.register(w, 1, client.WatchRequest{})
	l.keep(watched && l.request("unwatch", func() error { return l.client.Unwatch(l.ctx, id) }, client.ErrNoSuchOwner), "u/w1")

	// A death, and another server by the same name.
	l.kill(a)
	l.settled("u/a1", "u/a2", "u/a3")
	if l.files["u/a1"].promised && l.there("u/a1") == 0 {
		l.serve([]string{"u/a1"}, nil)
	}

	// The daemon's own, and one while there is none; another server takes the place of that one at once.
	l.crash()
	l.kill(b)
	must(l.t, os.Remove(l.path("u/b1")))
	l.serve([]string{"u/b1"}, nil)
	l.revive()
	l.settled("s/b2")
	for _, s := range []*server{n, c, k, w} {
		l.kill(s)
	}
	l.settled("n/n1", "c/c1", "u/k2")
	l.stop()

	// One that has no faults has nothing left to do in the end.
	l.plan = plan{}
	l.revive()
	l.await("the records are gone", func() bool { return len(l.records()) == 0 })
	l.await("all that is promised is gone", func() bool { return len(l.left()) == 0 })
	l.check()
	l.stop()
}

// serve starts a server.
func (l *life) serve(now, later []string) *server {
	l.t.Helper()
	absolute := func(names []string) (paths []string) {
		for _, name := range names {
			paths = append(paths, l.path(name))
		}
		return paths
	}
	s, err := serve(l.user, absolute(now), absolute(later))
	must(l.t, err)
	l.servers = append(l.servers, s)
	l.bound(s)
	return s
}

func (l *life) bindMore(s *server) {
	l.t.Helper()
	must(l.t, s.bindMore())
	l.bound(s)
}

// bound notes what a server has bound.
func (l *life) bound(s *server) {
	l.t.Helper()
	for _, path := range s.paths {
		name, err := filepath.Rel(l.base, path)
		must(l.t, err)
		if f := l.files[name]; f == nil || f.server != s {
			l.files[name] = &file{server: s, ino: l.there(name)}
		}
	}
	l.live()
}

// there is the inode of a name; 0 is that there is none.
func (l *life) there(name string) uint64 {
	l.t.Helper()
	var st unix.Stat_t
	err := unix.Lstat(l.path(name), &st)
	if err != nil && !errors.Is(err, unix.ENOENT) {
		l.t.Fatal(err)
	}
	return st.Ino
}

func (l *life) promise(is bool, names ...string) {
	for _, name := range names {
		if is {
			l.files[name].promised = true
		}
	}
}

func (l *life) keep(is bool, names ...string) {
	for _, name := range names {
		l.files[name].keep = is
	}
}

// live fails the test unless each live server answers, by the name and the inode that it has bound.
func (l *life) live() {
	l.t.Helper()
	for name, f := range l.files {
		if f.server.dead {
			continue
		}
		if ino := l.there(name); ino != f.ino {
			l.fatalf("a live server had %s: inode %d was to be there, and is %d", name, f.ino, ino)
		}
		if err := answers(l.path(name)); err != nil {
			l.fatalf("a live server does not answer: %v", err)
		}
	}
}

func (l *life) kill(s *server) {
	l.t.Helper()
	must(l.t, s.kill())
	l.live()
}

// register has a server watched, and tells whether it is, with as many claims.
func (l *life) register(s *server, claims int, q client.WatchRequest) (id string, ok bool) {
	l.t.Helper()
	identity, err := s.handle.Identity()
	must(l.t, err)
	q.Process = identity.String()
	told := 0
	ok = l.request("watch", func() error {
		w, err := l.client.Watch(l.ctx, q)
		id, told = w.ID, w.Claims
		return err
	})
	return id, ok && told == claims
}

// tries is how often somebody asks who is refused by one error or another. Of faults there are fewer at once, but for those that stay.
const tries = 4

// named are the errors that a client can make something of.
var named = []error{
	client.ErrNoSuchProcess, client.ErrNoSuchOwner, client.ErrNoSuchClaim, client.ErrNotPermitted, client.ErrInvalid,
	client.ErrLimit, client.ErrFailed, client.ErrRefused, client.ErrShuttingDown,
}

// request has a daemon asked until there is an answer, and tells whether that was that it is done. It may have been done though there was no
// answer: done are the errors that say so then.
func (l *life) request(what string, call func() error, done ...error) bool {
	l.t.Helper()
	asked := false
	for range tries {
		err := l.dial()
		if err == nil {
			err = l.user.do(call)
		}
		l.live()
		switch {
		case err == nil:
			return true
		case asked && slices.ContainsFunc(done, func(e error) bool { return errors.Is(err, e) }):
			return true
		case errors.Is(err, client.ErrDisconnected), errors.Is(err, client.ErrNoDaemon):
			l.disconnect()
			if l.daemon.killed() {
				l.await("the end of the daemon", l.daemon.isDead)
			}
		case !slices.ContainsFunc(named, func(e error) bool { return errors.Is(err, e) }):
			l.fatalf("%s: an error without a name: %v", what, err)
		case !l.daemon.fired():
			l.fatalf("%s: %v", what, err)
		}
		asked = true
		l.refused = append(l.refused, fmt.Sprintf("%s: %v", what, err))
	}
	return false
}

// dial connects to a daemon that lives, if there is no connection.
func (l *life) dial() error {
	l.t.Helper()
	if l.client != nil && !l.daemon.isDead() {
		return nil
	}
	for {
		l.revive()
		err := l.user.do(func() (err error) {
			l.client, err = client.Dial(l.ctx, l.path("run/control"))
			return err
		})
		if !errors.Is(err, client.ErrNoDaemon) {
			return err
		}
		l.await("the daemon is dead that nobody can connect to", l.daemon.isDead)
	}
}

func (l *life) disconnect() {
	if l.client != nil {
		_ = l.client.Close()
		l.client = nil
	}
}

// report tells that a server has bound a name, on its behalf.
func (l *life) report(s *server, name string) {
	l.t.Helper()
	err := l.user.do(func() error {
		conn, err := net.Dial("unixgram", l.path("run/notify"))
		if err != nil {
			return err
		}
		defer conn.Close()
		_, err = fmt.Fprintf(conn, "BIND=%s\nPID=%d\n", l.path(name), s.pid)
		return err
	})
	if err != nil && !errors.Is(err, unix.ECONNREFUSED) && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.ECONNRESET) {
		l.fatalf("report: %v", err)
	}
}

// recorded waits until a name is in a record, and tells whether it is: a daemon that has complained of something may have left it out. Bind
// binds it, and each daemon is told of it by tell. One that has complained is not told again where that is nil, or in vain.
func (l *life) recorded(name string, bind, tell func()) (is bool) {
	l.t.Helper()
	for range tries {
		l.revive()
		d, from := l.daemon, len(l.daemon.said(0))
		if bind != nil {
			bind()
			bind = nil
		}
		if tell != nil {
			tell()
		}
		complained := func() bool {
			return d.fired() && (strings.Contains(d.said(from), `"error":`) || complains(d.said(0), filepath.Dir(l.path(name))))
		}
		l.await(name+" is in a record", func() bool {
			is = slices.ContainsFunc(l.records(), func(text string) bool { return strings.Contains(text, l.path(name)) })
			return is || d.isDead() || complained()
		})
		if is {
			return true
		}
		l.refused = append(l.refused, name+" is in no record")
		if (tell == nil || d.goesOnFailing()) && !d.isDead() {
			return false
		}
	}
	return false
}

// complains tells whether a log has an error with these in it.
func complains(log string, about ...string) bool {
	for line := range strings.Lines(log) {
		if strings.Contains(line, `"error":`) && !slices.ContainsFunc(about, func(s string) bool { return !strings.Contains(line, s) }) {
			return true
		}
	}
	return false
}

// final are the kernel's words that it will not do something another time either. What could not be taken up for one of them is given up,
// and the log says so.
var final = []unix.Errno{unix.EPERM, unix.EROFS, unix.EACCES}

// leftToNext tells whether the daemon has said that there is something that the next one is to do.
func (l *life) leftToNext() bool {
	log := l.daemon.said(0)
	return l.daemon.goesOnFailing() && complains(log) || complains(log, "a record is not taken up")
}

// givenUp tells whether a daemon has said in its log that it has given up what is by a name.
func (l *life) givenUp(name string) bool {
	l.t.Helper()
	logs, err := filepath.Glob(l.path("log*"))
	must(l.t, err)
	for _, path := range logs {
		log, err := os.ReadFile(path)
		must(l.t, err)
		if slices.ContainsFunc(final, func(e unix.Errno) bool { return complains(string(log), l.path(name), e.Error()) }) {
			return true
		}
	}
	return false
}

// records are the texts of those that there are.
func (l *life) records() (texts []string) {
	l.t.Helper()
	paths, err := filepath.Glob(l.path("run/owners/*.json"))
	must(l.t, err)
	for _, path := range paths {
		if b, err := os.ReadFile(path); err == nil { // else it was deleted meanwhile
			texts = append(texts, string(b))
		}
	}
	return texts
}

// settled waits until each of some files is gone whose removal is promised, or somebody was told why it is not. It does not wait for what
// cannot go well as long as there is this daemon, which says so.
func (l *life) settled(names ...string) {
	l.t.Helper()
	for _, name := range names {
		f := l.files[name]
		if f == nil || !f.promised { // it was not bound
			continue
		}
		for gone := false; !gone; {
			l.revive()
			l.await(name+" is gone", func() bool {
				gone = l.there(name) != f.ino || l.daemon.fired() &&
					(l.outcome(name).Outcome != "" || l.givenUp(name) || l.leftToNext())
				return gone || l.daemon.isDead()
			})
		}
	}
	l.live()
}

func (l *life) outcome(name string) client.Event {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.told[l.path(name)]
}

// left are the names whose files were to be removed and are there, under whatever name, without anybody having been told why.
func (l *life) left() (names []string) {
	l.t.Helper()
	inodes := l.inodes()
	for name, f := range l.files {
		if f.promised && f.server.dead && inodes[f.ino] != "" && l.outcome(name).Error == "" && !l.givenUp(name) {
			names = append(names, name)
		}
	}
	return names
}

// check fails the test unless what was released is there, and each live server.
func (l *life) check() {
	l.t.Helper()
	l.live()
	for name, f := range l.files {
		if f.keep && l.there(name) != f.ino {
			l.fatalf("%s was released, and is gone: %+v", name, l.outcome(name))
		}
	}
}

// inodes are the paths of all sock-files.
func (l *life) inodes() map[uint64]string {
	l.t.Helper()
	all := map[uint64]string{}
	for _, dir := range []string{"u", "n", "s", "c"} {
		entries, err := os.ReadDir(l.path(dir))
		must(l.t, err)
		for _, e := range entries {
			if ino := l.there(filepath.Join(dir, e.Name())); ino != 0 {
				all[ino] = l.path(filepath.Join(dir, e.Name()))
			}
		}
	}
	return all
}

// revive starts a daemon unless one lives, the next one with the next faults, until one is ready.
func (l *life) revive() {
	l.t.Helper()
	for l.daemon == nil || l.daemon.isDead() {
		if l.daemon != nil {
			l.buried(l.daemon.over())
		}
		faults := ""
		if len(l.plan.before) > 0 {
			faults, l.plan.before = l.plan.before[0], l.plan.before[1:]
		}
		l.daemon = startDaemon(l.t, l.base, faults, l.bell)
		if !l.daemon.isReady() {
			l.await("the daemon ends that is not ready", l.daemon.isDead)
			continue
		}
		must(l.t, l.watchRecords())
		l.live()
		l.listen(l.daemon)
	}
}

// buried notes how a daemon has come to its end that was not to end.
func (l *life) buried(e ended) {
	l.t.Helper()
	l.disconnect()
	l.fired = append(l.fired, e.faults...)
	l.live()
	switch {
	case !e.fired():
		l.fatalf("it has ended by itself: %s", e)
	case !e.killed:
		l.refused = append(l.refused, e.stderr)
		if e.status == 0 || !answer(e) && !slices.ContainsFunc(e.faults, func(fault string) bool { return strings.Contains(e.stderr, because(fault)) }) {
			l.fatalf("it does not say why it ends: %s", e)
		}
	}
}

// because is how the kernel's error reads that was a fault: "17 unlinkat: EIO".
func because(fault string) string {
	name := fault[strings.LastIndexByte(fault, ' ')+1:]
	for e := unix.Errno(1); e < 256; e++ {
		if unix.ErrnoName(e) == name {
			return e.Error()
		}
	}
	return name
}

// crash kills the daemon, whatever it is at; those that come after it have other faults.
func (l *life) crash() {
	l.t.Helper()
	if l.daemon != nil {
		l.fired = append(l.fired, l.daemon.crash()...)
		l.disconnect()
		l.daemon = nil
	}
	l.plan = plan{before: l.plan.after}
	l.live()
}

// stop ends the daemon, as a service manager does. One that has died instead was at a point of its end.
func (l *life) stop() {
	l.t.Helper()
	l.revive()
	faulty := l.daemon.faults != ""
	e := l.daemon.stop()
	l.disconnect()
	l.fired = append(l.fired, e.faults...)
	l.daemon = nil
	switch {
	case e.fired():
	case e.status != 0:
		l.fatalf("it does not end well: %s", e)
	case !faulty && len(l.plan.before) == 0 && (strings.Contains(e.stderr, `"level":"error"`) || strings.Contains(e.stderr, "in the way")):
		l.fatalf("it complains, without a fault: %s", e)
	}
	l.live()
}

// listen notes the outcomes of which a daemon tells, until it ends.
func (l *life) listen(d *running) {
	note := func(e client.Event) {
		if e.Outcome == "" {
			return
		}
		l.mu.Lock()
		defer l.mu.Unlock()
		l.told[e.Exact()] = e
		l.bell.ring()
	}
	begun := make(chan struct{})
	l.watching.Go(func() {
		var once sync.Once
		defer once.Do(func() { close(begun) })
		for range tries {
			c, err := client.Dial(l.ctx, l.path("run/control"))
			if err != nil {
				continue
			}
			for m, err := range c.Monitor(l.ctx) {
				if err == nil {
					note(m.Event)
					once.Do(func() { close(begun) })
				}
			}
			_ = c.Close()
			if d.isDead() {
				return
			}
		}
	})
	<-begun
	l.watching.Go(func() { // what was before
		for range tries {
			c, err := client.Dial(l.ctx, l.path("run/control"))
			if err != nil {
				continue
			}
			events, err := c.History(l.ctx, "")
			_ = c.Close()
			for _, e := range events {
				note(e)
			}
			if err == nil {
				return
			}
		}
	})
}

// await waits until something is so, of which the bell tells.
func (l *life) await(what string, so func() bool) {
	l.t.Helper()
	for !so() {
		select {
		case <-l.bell:
		case <-l.ctx.Done():
			l.fatalf("waited in vain: %s", what)
		}
	}
}

// watchNames rings when something happens to a name, and when a daemon writes to its log.
func (l *life) watchNames() error {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return err
	}
	l.watch = os.NewFile(uintptr(fd), "inotify")
	l.watching.Go(func() {
		b := make([]byte, 4096)
		for {
			if _, err := l.watch.Read(b); err != nil {
				return
			}
			l.bell.ring()
		}
	})
	for _, dir := range []string{".", "u", "n", "s", "c"} {
		if err := l.watchDir(dir); err != nil {
			return err
		}
	}
	return nil
}

func (l *life) watchRecords() error { return l.watchDir("run/owners") }

func (l *life) watchDir(dir string) error {
	raw, err := l.watch.SyscallConn()
	if err != nil {
		return err
	}
	var watchErr error
	err = raw.Control(func(fd uintptr) {
		_, watchErr = unix.InotifyAddWatch(int(fd), l.path(dir), unix.IN_DELETE|unix.IN_MOVE|unix.IN_CREATE|unix.IN_MODIFY)
	})
	return errors.Join(err, watchErr)
}

// end ends all that is still there.
func (l *life) end() {
	l.disconnect()
	if l.daemon != nil {
		_ = l.daemon.crash()
	}
	for _, s := range l.servers {
		_ = s.kill()
	}
	l.watch.Close()
	l.watching.Wait()
}

func (l *life) fatalf(format string, args ...any) {
	l.t.Helper()
	log := ""
	if l.daemon != nil {
		log = l.daemon.said(0)
	}
	var records strings.Builder
	for _, text := range l.records() {
		records.WriteString(text + "\n")
	}
	for _, s := range l.servers {
		fmt.Fprintln(&records, s.pid, s.paths, s.dead)
	}
	for _, e := range l.told {
		fmt.Fprintf(&records, "%+v\n", e)
	}
	l.t.Fatalf("%s\nsock-files: %v\nrecords:\n%slog:\n%s", fmt.Sprintf(format, args...), l.inodes(), records.String(), log)
}

// testDir is a directory for lives, on a filesystem that forgets where there is one: records are written through.
func testDir(t *testing.T) string {
	t.Helper()
	dir := testutil.Dir(t, testutil.Tmpfs)
	must(t, os.Chmod(dir, 0o755))
	return dir
}
