package daemon

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/sockwatch/sockwatch/client"
	"github.com/sockwatch/sockwatch/internal/asuser"
	"github.com/sockwatch/sockwatch/internal/config"
	"github.com/sockwatch/sockwatch/internal/testutil"
)

// TestWatchTheSame: to register once more as before is no mistake, and to say something else of a process is one.
func TestWatchTheSame(t *testing.T) {
	p := newPlace(t)
	p.serve(config.Default())
	c := p.dial()
	o := startPuppet(t)
	must(t, os.Mkdir(p.path("space"), 0o755))
	q := client.WatchRequest{
		Process: o.pid(), Name: "app", Bindspaces: []string{p.path("space")}, Conventions: []string{"{name}@{pid}.sock", "{name}.{pid}"},
	}
	first, err := c.c.Watch(t.Context(), q)
	must(t, err)
	for _, change := range []func(*client.WatchRequest){
		func(*client.WatchRequest) {},
		func(q *client.WatchRequest) { q.Paths = []string{p.path("s")} },
		func(q *client.WatchRequest) { q.Name, q.Conventions = "", q.Conventions[1:] },
		func(q *client.WatchRequest) { *q = client.WatchRequest{Process: o.identity().String()} },
	} {
		q := q
		change(&q)
		if w, err := c.c.Watch(t.Context(), q); err != nil || w.ID != first.ID {
			t.Errorf("%+v: %+v, %v", q, w, err)
		}
	}
	for _, change := range []func(*client.WatchRequest){
		func(q *client.WatchRequest) { q.Name = "other" },
		func(q *client.WatchRequest) { q.Bindspaces = []string{p.base} },
		func(q *client.WatchRequest) { q.Conventions = append(q.Conventions, "{name}-{pid}") },
	} {
		q := q
		change(&q)
		if _, err := c.c.Watch(t.Context(), q); !errors.Is(err, client.ErrInvalid) {
			t.Errorf("%+v: %v", q, err)
		}
	}
}

// TestClaimsAreCounted: those that are named, and those that are found.
func TestClaimsAreCounted(t *testing.T) {
	testutil.Require(t, testutil.Root)
	p := newPlace(t)
	d := p.serve(config.Default())
	o := startPuppet(t, as(hostile))
	u := asuser.User{UID: hostile, GID: hostile}
	q := client.WatchRequest{Process: o.pid(), Paths: many(mostClaims-1, p.base+"/%d")}
	r, err := d.register(u, q)
	must(t, err)
	must(t, os.Mkdir(p.path("open"), 0o700))
	must(t, os.Chmod(p.path("open"), 0o777))
	o.do("bind", p.path("open/a"))
	_, err = d.register(u, client.WatchRequest{Process: o.pid()})
	must(t, err)
	o.do("bind", p.path("open/b"))
	for what, err := range map[string]error{
		"found": errOf2(d.register(u, client.WatchRequest{Process: o.pid()})), "named": (&control{Daemon: d}).claim(r, p.path("open/c")),
	} {
		if err == nil || namedError(err).Name != client.Interface+".LimitReached" {
			t.Errorf("%s: %v", what, err)
		}
	}
	if n := len(r.owner.Claims()); n != mostClaims {
		t.Errorf("%d claims", n)
	}
	if _, err := d.register(asuser.User{}, client.WatchRequest{Process: o.pid(), Paths: many(mostClaims+1, p.base+"/%d")}); err != nil {
		t.Error("root:", err)
	}
}

func errOf2[T any](_ T, err error) error { return err }

// TestClaimsOfUser: of many processes.
func TestClaimsOfUser(t *testing.T) {
	testutil.Require(t, testutil.Root)
	p := newPlace(t)
	d := p.serve(config.Default())
	u := asuser.User{UID: hostile, GID: hostile}
	for range claimsOfUser/mostClaims + 1 {
		o := startPuppet(t, as(hostile))
		_, err := d.register(u, client.WatchRequest{Process: o.pid(), Paths: many(20, p.base+"/"+o.pid()+".%d")})
		must(t, err)
	}
	if n, want := d.claimsOf(u), (claimsOfUser/mostClaims+1)*20; n != want {
		t.Errorf("%d claims, want %d", n, want)
	}
	if n := d.claimsOf(asuser.User{UID: victim}); n != 0 {
		t.Errorf("%d claims of another user", n)
	}
}

// TestStatusOfOthers: how much others have registered is theirs to know.
func TestStatusOfOthers(t *testing.T) {
	p := hostilePlace(t)
	c := p.dial()
	for i := range 3 {
		o := startPuppet(t)
		c.watch(o.pid(), p.path(fmt.Sprint(i)))
	}
	own := startAttacker(t, as(hostile))
	own.do("dial", p.control())
	_, err := own.watch(own.pid(), p.path("open/s"))
	must(t, err)
	var reply struct{ Parameters client.Status }
	must(t, json.Unmarshal([]byte(own.do("say", p.control(), callOf(t, "Status", struct{}{}))), &reply))
	if reply.Parameters.Owners != 1 || reply.Parameters.Claims != 1 {
		t.Errorf("%+v", reply)
	}
	if s, err := c.c.Status(t.Context()); err != nil || s.Owners != 4 || s.Claims != 4 {
		t.Error(s, err)
	}
	p.stop()
}

// TestTime: with nine digits, so that they sort as text.
func TestTime(t *testing.T) {
	at := time.Date(2026, 11, 22, 23, 0, 0, 500_000_000, time.FixedZone("", 3600))
	if got, want := newTime(at), "2026-11-22T22:00:00.500000000Z"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
}
