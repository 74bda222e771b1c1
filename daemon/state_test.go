package daemon

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/sockwatch/sockwatch/client"
	"github.com/sockwatch/sockwatch/internal/records"
	"github.com/sockwatch/sockwatch/reap"
)

// TestKilledOwnersAlive: the next daemon watches who is still there.
func TestKilledOwnersAlive(t *testing.T) {
	p := newPlace(t)
	p.start()
	o, other := startPuppet(t), startPuppet(t)
	held, named, pending := p.path("held"), p.path("named"), p.path("pending")
	o.do("bind", held)
	o.do("bind", named)
	w := p.dial().watch(o.pid(), named, pending)
	other.do("bind", p.path("other"))
	p.dial().watch(other.pid())

	p.restart()
	c := p.dial()
	if owner, _ := c.owner(o.child.PID()); owner.ID != w.ID || len(owner.Claims) != 3 || owner.RegisteredBy == nil {
		t.Errorf("%+v", owner)
	}
	// It is the client's as before.
	must(t, c.c.Claim(t.Context(), w.ID, p.path("claimed")))
	o.do("bind", p.path("claimed"))
	o.do("bind", pending)
	c.claimed(o.child.PID(), pending)
	o.kill()
	for _, path := range []string{held, named, pending, p.path("claimed")} {
		c.wantOutcome(path, "removed")
		c.gone(path)
	}
	other.answers(p.path("other"))
	c.until("the record of the dead is gone", func() bool { return len(p.records()) == 1 })
	p.restart() // with nothing left of the first, and the other one still there
	c = p.dial()
	if _, there := c.owner(o.child.PID()); there {
		t.Error("the dead is there again")
	}
	other.kill()
	c.gone(p.path("other"))
	p.noRecords()
	p.stop()
}

// records are the files of those that there are by now.
func (p *place) records() []string {
	p.t.Helper()
	files, err := filepath.Glob(filepath.Join(p.dir, "owners", "*.json*"))
	must(p.t, err)
	return files
}

// recordsOf are the records of a process that there are by now. Not any file that has the number in its name: an inode may have it.
func (p *place) recordsOf(o *puppetOf) []string {
	p.t.Helper()
	files, err := filepath.Glob(filepath.Join(p.dir, "owners", o.pid()+"-*.json"))
	must(p.t, err)
	return files
}

// recorded waits until a process has a record in which the path is. What the daemon finds out by itself it tells before it has kept it.
func (c *caller) recorded(p *place, o *puppetOf, path string) {
	c.t.Helper()
	text, err := json.Marshal(path)
	must(c.t, err)
	c.until("the record of "+path, func() bool {
		return slices.ContainsFunc(p.recordsOf(o), func(file string) bool {
			b, err := os.ReadFile(file)
			if err != nil && !errors.Is(err, fs.ErrNotExist) {
				c.t.Fatal(err)
			}
			return bytes.Contains(b, text)
		})
	})
}

// noRecords waits until the daemon has nothing left to do for anybody.
func (p *place) noRecords() {
	p.t.Helper()
	p.dial().until("there are no records", func() bool { return len(p.records()) == 0 })
}

// TestKilledOwnersDie: who has died meanwhile is cleaned up at once; not what has the name by then.
func TestKilledOwnersDie(t *testing.T) {
	p := newPlace(t)
	p.start()
	c := p.dial()
	o := startPuppet(t)
	for _, name := range []string{"held", "taken", "removed"} {
		o.do("bind", p.path(name))
	}
	c.watch(o.pid(), p.path("pending"), p.path("never"))
	p.child.Kill()

	o.do("bind", p.path("pending"))
	o.kill()
	server := startPuppet(t)
	server.do("rebind", p.path("taken"))
	must(t, os.Remove(p.path("removed")))
	p.start()
	c = p.dial()
	c.gone(p.path("held"), p.path("pending"))
	flush(t, p, c)
	server.answers(p.path("taken"))
	p.noRecords()
	p.stop()
}

// TestKilledBesideDead: a file that is dead too, but another one than was claimed, is not this owner's.
func TestKilledBesideDead(t *testing.T) {
	p := newPlace(t)
	p.start()
	o, other := startPuppet(t), startPuppet(t)
	path := p.path("s")
	o.do("bind", path)
	p.dial().watch(o.pid())
	p.child.Kill()
	other.do("rebind", path)
	other.do("close", path)
	o.kill()
	p.start()
	flush(t, p, p.dial())
	kept(t, path)
	p.stop()
}

// TestKilledPendingIsAlive: what another process has bound at a path that was claimed for a dead one is that process's.
func TestKilledPendingIsAlive(t *testing.T) {
	p := newPlace(t)
	p.start()
	o, server := startPuppet(t), startPuppet(t)
	path := p.path("s")
	p.dial().watch(o.pid(), path)
	p.child.Kill()
	o.kill()
	server.do("bind", path)
	p.start()
	p.noRecords()
	server.answers(path)
	p.stop()
}

// TestStoppedKeeps: an orderly end leaves the records and takes the daemon's own sockets away.
func TestStoppedKeeps(t *testing.T) {
	p := newPlace(t)
	p.start()
	o := startPuppet(t)
	path := p.path("s")
	o.do("bind", path)
	p.dial().watch(o.pid())
	p.stop() // as a service manager does
	for _, own := range []string{p.control(), filepath.Join(p.dir, NotifyName)} {
		if exists(t, own) {
			t.Errorf("%s is left", own)
		}
	}
	o.answers(path)
	o.kill()
	p.start()
	p.dial().gone(path)
	p.stop()
}

// TestDamagedRecord: one is set aside, and the others are taken up.
func TestDamagedRecord(t *testing.T) {
	p := newPlace(t)
	p.start()
	var owners []*puppetOf
	for i := range 3 {
		o := startPuppet(t)
		o.do("bind", p.path(fmt.Sprint(i)))
		p.dial().watch(o.pid())
		owners = append(owners, o)
	}
	p.child.Kill()
	files := p.recordsOf(owners[1])
	if len(files) != 1 {
		t.Fatal(files)
	}
	b, err := os.ReadFile(files[0])
	must(t, err)
	must(t, os.WriteFile(files[0], b[:len(b)/2], 0o600))
	must(t, os.WriteFile(filepath.Join(p.dir, "owners", "foreign.json"), []byte("{}"), 0o600))
	for _, o := range owners {
		o.kill()
	}
	p.start()
	c := p.dial()
	c.gone(p.path("0"), p.path("2"))
	kept(t, p.path("1"))
	aside, err := filepath.Glob(filepath.Join(p.dir, "owners", "*.damaged*"))
	if err != nil || len(aside) != 2 {
		t.Error(aside, err)
	}
	for _, a := range aside {
		if len(lines(p.logged(), "warn", a)) != 1 {
			t.Errorf("the log does not tell of %s:\n%s", a, p.logged())
		}
	}
	p.stop()
}

// TestSecondDaemon is refused, and leaves the first one's sockets alone.
func TestSecondDaemon(t *testing.T) {
	p := newPlace(t)
	p.start()
	_, err := New(Options{RuntimeDir: p.dir, Log: zerolog.Nop()})
	var locked *records.LockedError
	if !errors.As(err, &locked) || locked.PID != p.child.PID() {
		t.Errorf("%v, want a LockedError of pid %d", err, p.child.PID())
	}
	if s, err := p.dial().c.Status(t.Context()); err != nil || s.PID != p.child.PID() {
		t.Error(s, err)
	}
	p.stop()
}

// TestOwnSockets: what a daemon that was killed has left does not block the next one.
func TestOwnSockets(t *testing.T) {
	p := newPlace(t)
	p.start()
	for range 20 {
		kept(t, p.control(), filepath.Join(p.dir, NotifyName))
		p.restart()
		if s, err := p.dial().c.Status(t.Context()); err != nil || s.PID != p.child.PID() {
			t.Fatal(s, err)
		}
	}
	p.stop()
}

// TestOwnSocketInTheWay: what is no dead socket at the daemon's path is not touched.
func TestOwnSocketInTheWay(t *testing.T) {
	p := newPlace(t)
	must(t, os.Mkdir(p.dir, 0o755))
	refused := func() {
		t.Helper()
		if d, err := New(Options{RuntimeDir: p.dir, Log: zerolog.Nop()}); err == nil || !strings.Contains(err.Error(), "in the way") {
			t.Error(err)
			if err == nil {
				d.Close()
			}
		}
	}
	must(t, os.WriteFile(p.control(), []byte("text"), 0o600))
	refused()
	kept(t, p.control())
	o := startPuppet(t)
	o.do("rebind", p.control())
	refused()
	o.answers(p.control())
	o.kill()
	p.start()
	p.stop()
}

// TestKilledAtAnyInstant: whatever the daemon is at, what it has said to watch is cleaned up, and no server loses its file.
func TestKilledAtAnyInstant(t *testing.T) {
	rounds := 50
	p := newPlace(t)
	shared := p.path("shared") // what one owner leaves is replaced by the next one's
	var survivors []*puppetOf
	var dead []string // of owners that have died and of which the daemon had said that they are watched
	alive := map[string]*puppetOf{}
	for i := range 3 {
		o := startPuppet(t)
		path := p.path(fmt.Sprintf("alive%d", i))
		o.do("bind", path)
		survivors, alive[path] = append(survivors, o), o
	}
	p.start()
	for _, o := range survivors {
		p.dial().watch(o.pid())
	}
	var last *puppetOf
	for round := range rounds {
		path := p.path(fmt.Sprint(round))
		o := startPuppet(t)
		o.do("bind", path)
		o.do("rebind", shared)
		var said bool // that it is watched
		var work sync.WaitGroup
		work.Go(func() {
			ctx, cancel := context.WithTimeout(context.Background(), patience)
			defer cancel()
			c, err := client.Dial(ctx, p.control())
			if err != nil {
				return
			}
			defer c.Close()
			_, err = c.Watch(ctx, client.WatchRequest{Process: o.pid(), Paths: []string{path, shared}})
			said = err == nil
			_, _ = c.Watch(ctx, client.WatchRequest{Process: survivors[0].pid(), Paths: []string{path}})
		})
		if last != nil {
			work.Go(last.kill)
		}
		<-time.After(time.Duration(rand.IntN(12000)) * time.Microsecond) // any instant is the right one
		p.child.Kill()
		work.Wait()
		if last = nil; said {
			dead, last = append(dead, path), o
		} else {
			o.kill()
			must(t, os.Remove(path))
		}
		p.start()
	}
	if last != nil {
		last.kill()
	}
	server := startPuppet(t)
	server.do("rebind", shared)
	alive[shared] = server
	p.restart()
	c := p.dial()
	c.gone(dead...)
	for path, o := range alive {
		o.answers(path)
	}
	for _, o := range survivors {
		o.kill()
	}
	c.gone(p.path("alive0"), p.path("alive1"), p.path("alive2"))
	server.answers(shared)
	p.noRecords()
	p.stop()
	for r := range reap.Sweep(t.Context(), reap.SweepOptions{DryRun: true}, p.base) {
		if r.Outcome == reap.OutcomeRemoved {
			t.Errorf("left behind: %s", r.Path)
		}
	}
	t.Logf("%d of %d owners were registered before the daemon's end", len(dead), rounds)
}
