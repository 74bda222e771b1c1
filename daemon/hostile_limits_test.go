package daemon

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sockwatch/sockwatch/client"
)

// TestHostileRequests: what is no call, too long, too deep, or has no end.
func TestHostileRequests(t *testing.T) {
	p := hostilePlace(t)
	own := startAttacker(t, as(hostile))
	for name, message := range map[string]string{
		"MalformedMessage": strings.Repeat("[", 1000),
		"MessageTooLarge":  strings.Repeat(" ", 200<<10),
	} {
		p.wantRefused(own.do("say", p.control(), message), name, hostile)
	}
	nested := callOf(t, "Watch", map[string]any{"process": "1"})
	nested = strings.Replace(nested, `"1"`, strings.Repeat(`{"a":`, 5000)+"1"+strings.Repeat("}", 5000), 1)
	p.wantRefused(own.do("say", p.control(), nested), "MalformedMessage", hostile)
	if said := own.do("endless", p.control()); !strings.Contains(said, "MessageTooLarge") {
		t.Error(said)
	}
	for name, parameters := range map[string]map[string]any{
		"paths":       {"process": own.pid(), "paths": many(mostClaims+1, "/a%d")},
		"bindspaces":  {"process": own.pid(), "bindspaces": many(mostBindspaces+1, p.path("open")+"/%d")},
		"conventions": {"process": own.pid(), "conventions": many(mostConventions+1, "{name}@{pid}.%d")},
	} {
		message := callOf(t, "Watch", parameters)
		if len(message) > 64<<10 { // the limit before it
			t.Fatalf("%s: %d bytes", name, len(message))
		}
		p.wantRefused(own.do("say", p.control(), message), "LimitReached", hostile)
	}
	p.wantRefused(own.do("say", p.control(), callOf(t, "Watch", map[string]any{"process": own.pid(), "name": strings.Repeat("x", 300)})), "Invalid", hostile)
	p.served()
	p.stop()
}

func many(n int, format string) []string {
	texts := make([]string, n)
	for i := range texts {
		texts[i] = fmt.Sprintf(format, i)
	}
	return texts
}

// TestHostileSlow: those who are in the middle of a call, as many as one user may have, keep nobody.
func TestHostileSlow(t *testing.T) {
	p := hostilePlace(t)
	for slow, tries := 0, 1; ; tries++ {
		own := startAttacker(t, as(hostile))
		_, err := own.try("begin", p.control(), "64")
		if tries == 1 { // else those of the one before may still be there
			must(t, err)
		}
		p.served()
		reply := own.do("say", p.control(), callOf(t, "Status", struct{}{}))
		own.kill()
		sentAway := len(lines(p.logged(), "MessageTooSlow"))
		if sentAway == slow || tries == 20 || strings.Contains(reply, "TooManyConnections") {
			p.wantRefused(reply, "TooManyConnections", hostile)
			break
		}
		slow = sentAway // the daemon's patience was at its end before all were there
	}
	p.served()
	p.stop()
}

// TestHostileConnections: ten thousand of them, of two users and several processes. Each is told so; the daemon keeps those that it serves.
func TestHostileConnections(t *testing.T) {
	const each, processes = 2500, 4
	p := hostilePlace(t)
	began := time.Now()
	total := map[string]int{}
	for i := range processes {
		own := startAttacker(t, as([]uint32{hostile, victim}[i%2]))
		var said map[string]int
		must(t, json.Unmarshal([]byte(own.do("hold", p.control(), fmt.Sprint(each))), &said))
		for name, n := range said {
			total[name] += n
		}
	}
	want := map[string]int{"": 2 * 64, client.Interface + ".TooManyConnections": processes*each - 2*64}
	if !maps.Equal(total, want) {
		t.Errorf("%v, want %v", total, want)
	}
	if n := p.descriptors(); n > 300 {
		t.Errorf("the daemon has %d descriptors", n)
	}
	for _, uid := range []int{hostile, victim} {
		n := len(lines(p.logged(), "a connection is refused", "TooManyConnections", fmt.Sprintf(`"uid":%d`, uid)))
		if n == 0 || n > mostLogged(began) {
			t.Errorf("%d of %d refusals of user %d are in the log", n, each*processes/2, uid)
		}
	}
	p.served()
	p.stop()
}

// mostLogged is how much the log may say of what one user was refused since then: see varlink.PerUser. A slow machine has time for more.
func mostLogged(since time.Time) int { return 100 * (int(time.Since(since)/(10*time.Second)) + 2) }

// TestHostileLog: who is refused without end does not fill the log, and cannot keep others out of it.
func TestHostileLog(t *testing.T) {
	const many = 3000
	p := hostilePlace(t)
	began := time.Now()
	own, another := startAttacker(t, as(hostile)), startAttacker(t, as(victim))
	own.do("dial", p.control())
	for range many {
		if _, err := own.watch("1"); !errors.Is(err, client.ErrNotPermitted) {
			t.Fatal(err)
		}
	}
	p.wantRefused(another.do("say", p.control(), callOf(t, "Watch", map[string]any{"process": own.pid()})), "NotPermitted", victim)
	long := strings.Repeat("x", 60<<10)
	p.wantRefused(another.do("say", p.control(), callOf(t, "Watch", map[string]any{"process": another.pid(), "paths": []string{long}})), "Invalid", victim)
	if n := len(lines(p.logged(), "a request is refused", `"uid":1234`)); n == 0 || n > mostLogged(began) {
		t.Errorf("%d of %d refusals are in the log", n, many)
	}
	if strings.Contains(p.logged(), long) {
		t.Error("the log has all of a path that is none")
	}
	p.served()
	p.stop()
}

// TestHostileFlood: who floods the notify socket loses reports, and nobody else does. The log says so, and does not grow with it.
func TestHostileFlood(t *testing.T) {
	p := hostilePlace(t)
	began := time.Now()
	victims := startPuppet(t, as(victim))
	c := p.dial()
	var floods []*puppetOf
	// More work than it is to send it: else a daemon on a single processor with them has always taken all before there is more.
	long := strings.Repeat("BIND="+p.path("secret/root")+"\n", 50)
	for _, message := range []string{long, "no report", "BIND=" + p.control() + "\nPID=1"} {
		own := startAttacker(t, as(hostile))
		own.do("flood", p.notify(), message)
		floods = append(floods, own)
	}
	c.until("reports are dropped", func() bool {
		s, err := c.c.Status(t.Context())
		must(t, err)
		return s.ReportsDropped > 1000
	})
	for i := range 50 {
		path := p.path(fmt.Sprint("open/", i))
		victims.do("bind", path)
		victims.do("bound", p.notify(), path)
		c.claimed(victims.child.PID(), path)
	}
	p.served()
	for _, own := range floods {
		own.do("flooded")
	}
	refused := len(lines(p.logged(), "a report is refused", `"uid":1234`))
	if most := 20 * (int(time.Since(began)/time.Second) + 2); refused == 0 || refused > most { // so many in a second: see watch
		t.Errorf("%d reports are refused in the log", refused)
	}
	victims.kill()
	for i := range 50 {
		c.gone(p.path(fmt.Sprint("open/", i)))
	}
	p.stop()
}

// TestHostileDescriptors: who has many directories watched comes to the end of his share, and not the daemon to that of its descriptors.
func TestHostileDescriptors(t *testing.T) {
	p := hostilePlace(t)
	p.limit(400)
	own := startAttacker(t, as(hostile))
	own.do("dial", p.control())
	w, err := own.watch(own.pid())
	must(t, err)
	refused := 0
	for i := range 500 {
		dir := p.path(fmt.Sprint("open/", i))
		own.do("mkdir", dir)
		own.do("bind", dir+"/s")
		if _, err := own.try("claim", w.ID, dir+"/s"); err != nil {
			wantLimit(t, err)
			if refused++; refused == 20 {
				break
			}
		}
		own.do("close", dir+"/s")
	}
	if refused == 0 {
		t.Error("nothing is refused")
	}
	for i := range 20 { // another way to have a directory watched
		dir := p.path(fmt.Sprint("open/reported", i))
		own.do("mkdir", dir)
		own.do("bind", dir+"/s")
		own.do("bound", p.notify(), dir+"/s")
	}
	p.served()
	c := p.dial()
	for _, what := range []string{"a request is refused", "a report is refused"} {
		c.until("the log says that "+what, func() bool { return len(lines(p.logged(), what, "LimitReached", `"uid":1234`)) > 0 })
	}
	own.kill()
	c.until("it is gone", func() bool { _, there := c.owner(own.child.PID()); return !there })
	p.served()
	p.stop()
}

// TestHostileHeld: a process that has sockets in many directories when it is registered.
func TestHostileHeld(t *testing.T) {
	p := hostilePlace(t)
	p.limit(400)
	own := startAttacker(t, as(hostile))
	own.do("dial", p.control())
	for i := range 300 {
		dir := p.path(fmt.Sprint("open/", i))
		own.do("mkdir", dir)
		own.do("bind", dir+"/s")
	}
	if _, err := own.watch(own.pid()); err == nil {
		t.Error("it is registered")
	} else {
		wantLimit(t, err)
	}
	if owner, there := p.dial().owner(own.child.PID()); there {
		t.Errorf("it is watched: %d claims", len(owner.Claims))
	}
	p.served()
	own.kill()
	p.served()
	p.stop()
}

// TestHostileOwners: the same with processes.
func TestHostileOwners(t *testing.T) {
	p := hostilePlace(t)
	p.limit(200)
	own := startAttacker(t, as(hostile))
	own.do("dial", p.control())
	var children []*puppetOf
	refused := 0
	for range 200 {
		child := startPuppet(t, as(hostile))
		children = append(children, child)
		if _, err := own.watch(child.pid()); err != nil {
			wantLimit(t, err)
			refused++
			break
		}
	}
	if refused == 0 {
		t.Error("nothing is refused")
	}
	p.served()
	for _, child := range children {
		child.kill()
	}
	p.served()
	p.stop()
}

// limit gives the daemon no more descriptors than that.
func (p *place) limit(n uint64) {
	p.t.Helper()
	must(p.t, unix.Prlimit(p.child.PID(), unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: n, Max: n}, nil))
}

func wantLimit(t testing.TB, err error) {
	t.Helper()
	if !errors.Is(err, client.ErrLimit) {
		t.Error(err)
	}
}
