package daemon

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/sockwatch/sockwatch/client"
	"github.com/sockwatch/sockwatch/internal/testutil"
)

// monitorName is a helper process that says what a daemon tells it, a line for each message, until it is killed. Its argument is the control
// socket.
const monitorName = "monitor"

func init() {
	if os.Getenv("SOCKWATCH_TEST_CHILD") == monitorName {
		monitor()
		os.Exit(0)
	}
}

func monitor() {
	ctx := context.Background()
	c, err := client.Dial(ctx, os.Args[1])
	if err != nil {
		panic(err)
	}
	out := json.NewEncoder(os.Stdout)
	for msg, err := range c.Monitor(ctx) {
		if err != nil || out.Encode(msg) != nil { // whoever reads misses a line
			return
		}
	}
}

// stream is what a user is told of.
type stream struct {
	t     *testing.T
	uid   uint32
	child *testutil.Child
}

// monitor has a user told of what happens from here on.
func (p *place) monitor(t *testing.T, uid uint32) stream {
	t.Helper()
	cmd := testutil.Command(t, monitorName, p.control())
	as(uid)(cmd)
	s := stream{t, uid, testutil.Start(t, cmd)}
	if e := s.next(); e.Type != "" {
		t.Errorf("user %d is told at once of %+v", uid, e)
	}
	return s
}

func (s stream) next() client.Event {
	s.t.Helper()
	var msg client.Monitored
	must(s.t, json.Unmarshal([]byte(s.child.Line()), &msg))
	return msg.Event
}

// until gives the events up to the outcome of a path.
func (s stream) until(path string) (events []client.Event) {
	s.t.Helper()
	for {
		e := s.next()
		events = append(events, e)
		if e.Type == "outcome" && e.Path.Path == path {
			return events
		}
	}
}

// TestMonitorOfOthers: claims, ends and outcomes of a user's processes are told to him and to root, and to nobody else.
func TestMonitorOfOthers(t *testing.T) {
	p := hostilePlace(t)
	users := []uint32{hostile, victim, 0}
	var streams []stream
	for _, uid := range users {
		streams = append(streams, p.monitor(t, uid))
	}
	c := p.dial()
	// Each user's last event comes after all that happened to the others in the first round.
	path := func(uid uint32, round int) string { return p.path(fmt.Sprintf("open/of%d.%d", uid, round)) }
	for round := range 2 {
		for _, uid := range users {
			o := startPuppet(t, as(uid))
			o.do("dial", p.control())
			o.do("bind", path(uid, round))
			_, err := o.watch(o.pid())
			must(t, err)
			o.kill()
			c.wantOutcome(path(uid, round), "removed")
		}
	}
	for _, s := range streams {
		toldOf := map[uint32][]string{} // what kinds of events
		for _, e := range s.until(path(s.uid, 1)) {
			if e.UID == nil {
				t.Fatalf("nobody's: %+v", e)
			}
			uid := *e.UID
			toldOf[uid] = append(toldOf[uid], e.Type)
			if s.uid != 0 && (uid != s.uid || e.Path.Path != "" && !strings.HasPrefix(e.Path.Path, p.path(fmt.Sprintf("open/of%d.", s.uid)))) {
				t.Errorf("user %d is told of %+v", s.uid, e)
			}
		}
		for _, uid := range users {
			for _, kind := range []string{"claim", "exit", "outcome"} {
				if want := s.uid == 0 || s.uid == uid; slices.Contains(toldOf[uid], kind) != want {
					t.Errorf("user %d is told of user %d: %q, want %s: %v", s.uid, uid, toldOf[uid], kind, want)
				}
			}
		}
	}
	p.stop()
}
