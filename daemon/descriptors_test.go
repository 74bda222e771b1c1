package daemon

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"testing"

	"github.com/sockwatch/sockwatch/client"
	"github.com/sockwatch/sockwatch/internal/testutil"
)

// startWith starts a daemon that may have so many descriptors: RLIMIT_NOFILE.
func (p *place) startWith(descriptors int) {
	p.t.Helper()
	cmd := testutil.Command(p.t, "daemon", p.dir, p.log, p.conf)
	cmd.Env = append(cmd.Env, "GORACE=atexit_sleep_ms=0")
	cmd.Args = append([]string{"sh", "-c", `ulimit -n "$0" && exec "$@"`, fmt.Sprint(descriptors), cmd.Path}, cmd.Args[1:]...)
	cmd.Path = "/bin/sh"
	p.child = testutil.Start(p.t, cmd)
	p.child.Expect("ready")
}

// inRecords counts the paths that are in some record.
func (p *place) inRecords(paths []string) (n int) {
	p.t.Helper()
	var all bytes.Buffer
	for _, file := range p.records() {
		b, err := os.ReadFile(file)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			p.t.Fatal(err)
		}
		all.Write(b)
	}
	for _, path := range paths {
		text, err := json.Marshal(path)
		must(p.t, err)
		if bytes.Contains(all.Bytes(), text) {
			n++
		}
	}
	return n
}

// TestFewDescriptorsForClaims: what a daemon has too few descriptors to take up is kept, told of, and taken up when there are some.
func TestFewDescriptorsForClaims(t *testing.T) {
	p := newPlace(t)
	p.start()
	base := p.descriptors()
	o, other := startPuppet(t), startPuppet(t)
	var paths, others []string
	for i := range 40 { // each in a directory of its own, which costs a descriptor
		for name, owner := range map[string]*puppetOf{"o": o, "other": other} {
			must(t, os.Mkdir(p.path(fmt.Sprint(name, i)), 0o755))
			path := p.path(fmt.Sprint(name, i, "/s"))
			owner.do("bind", path)
			if owner == o {
				paths = append(paths, path)
			} else {
				others = append(others, path)
			}
		}
	}
	w := p.dial().watch(o.pid())
	p.dial().watch(other.pid())
	told := func(c *caller) (claims, pending int) {
		owners, err := c.c.List(t.Context())
		must(t, err)
		for _, owner := range owners {
			claims += len(owner.Claims)
			for _, claim := range owner.Claims {
				if claim.Pending {
					pending++
				}
			}
		}
		return claims, pending
	}

	released := 0
	for range 2 { // the second one has the records of the first
		p.child.Kill()
		p.startWith(base + 60)
		c := p.dial()
		claims, pending := told(c)
		if want := 80 - released; claims != want || pending < 10 || pending == want {
			t.Errorf("%d claims, %d of them pending; want %d, and some pending", claims, pending, want)
		}
		if s, err := c.c.Status(t.Context()); err != nil || s.Owners != 2 {
			t.Errorf("%+v, %v", s, err)
		}
		if n := p.inRecords(append(paths, others...)); n < 80-released {
			t.Errorf("%d of %d claims are in the records", n, 80-released)
		}
		// It serves, and a claim can be released whether it is taken up or not.
		if owner, _ := c.owner(o.child.PID()); owner.ID != w.ID {
			t.Errorf("%+v", owner)
		}
		last := paths[len(paths)-1]
		paths = paths[:len(paths)-1]
		if r, err := c.c.Release(t.Context(), w.ID, last); !r || err != nil {
			t.Errorf("release: %v, %v", r, err)
		}
		released++
	}
	if len(lines(p.logged(), "not all records can be taken up")) != 2 {
		t.Error(p.logged())
	}

	c := p.dial()
	other.kill()
	c.gone(others...)
	c.until("all is taken up", func() bool { return len(lines(p.logged(), "all records are taken up")) > 0 })
	if claims, pending := told(c); claims != len(paths) || pending > 0 {
		t.Errorf("%d claims, %d pending; want %d and none", claims, pending, len(paths))
	}
	o.kill()
	c.gone(paths...)
	kept(t, p.path("o39/s"), p.path("o38/s")) // they were released
	p.noRecords()
	p.stop()
}

// TestFewDescriptorsForProcesses: the same where there are too few to watch all processes.
func TestFewDescriptorsForProcesses(t *testing.T) {
	p := newPlace(t)
	p.start()
	base := p.descriptors()
	c := p.dial()
	var owners []*puppetOf
	var paths []string
	for i := range 20 {
		o := startPuppet(t)
		path := p.path(fmt.Sprint("s", i))
		o.do("bind", path)
		c.watch(o.pid(), path)
		owners, paths = append(owners, o), append(paths, path)
	}
	p.child.Kill()
	dead := owners[0]
	dead.kill() // meanwhile
	p.startWith(base + 20)
	c = p.dial()
	unwatched := 0
	for _, o := range owners[1:] {
		owner, there := c.owner(o.child.PID())
		if !there || len(owner.Claims) != 1 {
			t.Errorf("%v %+v", there, owner)
		}
		switch err := c.c.Claim(t.Context(), owner.ID, p.path("more")); {
		case errors.Is(err, client.ErrLimit):
			unwatched++
			if _, err := c.c.Watch(t.Context(), client.WatchRequest{Process: o.pid()}); !errors.Is(err, client.ErrLimit) {
				t.Errorf("watch: %v, want %v", err, client.ErrLimit)
			}
		case err != nil:
			t.Error(err)
		}
	}
	if s, err := c.c.Status(t.Context()); err != nil || s.Owners < len(owners)-1 {
		t.Errorf("%+v, %v", s, err)
	}
	if unwatched == 0 || unwatched == len(owners)-1 {
		t.Fatalf("%d of %d processes are not watched", unwatched, len(owners)-1)
	}
	if n := p.inRecords(paths[1:]); n != len(paths)-1 {
		t.Errorf("%d of %d claims are in the records", n, len(paths)-1)
	}
	// Those of the dead that are watched make room for the others, who are dead by then, or not.
	for _, o := range owners[1:15] {
		o.kill()
	}
	c.gone(paths[:15]...)
	c.until("all is taken up", func() bool { return len(lines(p.logged(), "all records are taken up")) > 0 })
	for i, o := range owners[15:] {
		o.answers(paths[15+i])
		o.kill()
	}
	c.gone(paths...)
	p.noRecords()
	p.stop()
}

// TestRecalledUser: a file that has another name by now is the user's that the record tells, to rules as well.
func TestRecalledUser(t *testing.T) {
	p := newPlace(t)
	must(t, os.WriteFile(p.conf, []byte("[[rule]]\nuid = [0]\naction = \"ignore\"\n"), 0o600))
	p.start()
	uid, change := os.Geteuid(), []func(*exec.Cmd){}
	if uid == 0 {
		uid, change = hostile, append(change, as(hostile))
	}
	o := startPuppet(t, change...)
	dir := p.path("dir")
	must(t, os.Mkdir(dir, 0o755))
	must(t, os.Chown(dir, uid, uid))
	o.do("bind", dir+"/s")
	o.do("dial", p.control())
	if _, err := o.watch(o.pid(), dir+"/s"); err != nil {
		t.Fatal(err)
	}
	p.child.Kill()
	o.kill()
	must(t, os.Rename(dir+"/s", dir+"/t"))
	p.start()
	p.dial().gone(dir + "/t")
	p.noRecords()
	p.stop()
}
