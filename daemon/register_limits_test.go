package daemon

import (
	"fmt"
	"strings"
	"testing"

	"github.com/sockwatch/sockwatch/client"
	"github.com/sockwatch/sockwatch/internal/asuser"
	"github.com/sockwatch/sockwatch/internal/config"
	"github.com/sockwatch/sockwatch/internal/testutil"
)

// TestClaimsOfUserAreBounded: when a user has as many as there may be, each of his processes can have a few and no more. Others have what
// they had.
func TestClaimsOfUserAreBounded(t *testing.T) {
	testutil.Require(t, testutil.Root)
	p := newPlace(t)
	d := p.serve(config.Default())
	u := asuser.User{UID: hostile, GID: hostile}
	for range claimsOfUser / mostClaims {
		o := startPuppet(t, as(hostile))
		_, err := d.register(u, client.WatchRequest{Process: o.pid(), Paths: many(mostClaims, "/none/"+o.pid()+".%d")})
		must(t, err)
	}
	o := startPuppet(t, as(hostile))
	r, err := d.register(u, client.WatchRequest{Process: o.pid(), Paths: many(busy, "/none/%d")})
	must(t, err)
	for i := range 3 {
		_, err := d.register(u, client.WatchRequest{Process: o.pid(), Paths: []string{fmt.Sprint("/none/more", i)}})
		wantRefusal(t, err, "claims of a user")
	}
	if n := len(r.owner.Claims()); n != busy {
		t.Errorf("%d claims, want %d", n, busy)
	}
	if n, want := d.claimsOf(u), claimsOfUser+busy; n != want {
		t.Errorf("%d claims of the user, want %d", n, want)
	}
	another := startPuppet(t, as(victim))
	_, err = d.register(asuser.User{UID: victim, GID: victim}, client.WatchRequest{Process: another.pid(), Paths: many(2*busy, "/none/%d")})
	must(t, err)
	_, err = d.register(asuser.User{}, client.WatchRequest{Process: o.pid(), Paths: many(2*busy, "/none/%d")})
	must(t, err)
}

// TestOwnersOfUser: the processes of a user are counted, and one too many is refused. There are not that many of them here: the count begins
// just below the limit.
func TestOwnersOfUser(t *testing.T) {
	testutil.Require(t, testutil.Root)
	p := newPlace(t)
	d := p.serve(config.Default())
	u := asuser.User{UID: hostile, GID: hostile}
	const before = mostOwners - 2
	count := func() int {
		d.mu.Lock()
		defer d.mu.Unlock()
		return d.byUID[hostile]
	}
	d.mu.Lock()
	d.byUID[hostile] = before
	d.mu.Unlock()
	register := func(u asuser.User, o *puppetOf) error {
		_, err := d.register(u, client.WatchRequest{Process: o.pid()})
		return err
	}
	first, second, third := startPuppet(t, as(hostile)), startPuppet(t, as(hostile)), startPuppet(t, as(hostile))
	must(t, register(u, first))
	must(t, register(u, second))
	wantRefusal(t, register(u, third), "registered processes of a user")
	must(t, register(u, second)) // once more, which makes no more of them
	if n := count(); n != mostOwners {
		t.Errorf("%d are counted, want %d", n, mostOwners)
	}
	must(t, register(asuser.User{}, third)) // root's
	another := startPuppet(t, as(victim))
	must(t, register(asuser.User{UID: victim, GID: victim}, another))
	first.kill()
	c := p.dial()
	c.until("the end of one is known", func() bool { return count() < mostOwners })
	must(t, register(u, third))
	wantRefusal(t, register(u, startPuppet(t, as(hostile))), "registered processes of a user")
}

// wantRefusal fails the test unless an error is that a limit is reached: that of this.
func wantRefusal(t *testing.T, err error, what string) {
	t.Helper()
	if err == nil {
		t.Fatalf("not refused: %s", what)
	}
	if named := namedError(err); named.Name != client.Interface+".LimitReached" || !strings.Contains(fmt.Sprint(named.Parameters), what) {
		t.Errorf("%+v, want the limit of %s", named, what)
	}
}
