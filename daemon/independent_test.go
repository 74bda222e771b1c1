package daemon

import (
	"encoding/json"
	"os/exec"
	"slices"
	"testing"

	"github.com/sockwatch/sockwatch/client"
	"github.com/sockwatch/sockwatch/internal/testutil"
)

// TestPython: a client that shares no code with the daemon, of Python's standard library.
func TestPython(t *testing.T) {
	testutil.Require(t, testutil.Program("python3"))
	independent(t, func(control, method, parameters string, more bool) *exec.Cmd {
		mode := "once"
		if more {
			mode = "more"
		}
		return exec.Command("python3", "-u", "../internal/varlink/testdata/client.py", control, method, parameters, mode)
	})
}

// independentReply is what such a client prints of a reply: the whole of it, or its parameters alone.
type independentReply struct {
	Vendor      string
	Interfaces  []string
	Description string
	ID          string
	Claims      int
	Owners      []client.Owner
	Event       client.Event
	Parameters  *independentReply
}

func parseIndependent(t *testing.T, line string) independentReply {
	t.Helper()
	var r independentReply
	must(t, json.Unmarshal([]byte(line), &r))
	if r.Parameters != nil {
		return *r.Parameters
	}
	return r
}

// independent calls a daemon by another client, of which call gives the command for a call.
func independent(t *testing.T, call func(control, method, parameters string, more bool) *exec.Cmd) {
	p := newPlace(t)
	p.start()
	once := func(method string, parameters any) independentReply {
		t.Helper()
		b, err := json.Marshal(parameters)
		must(t, err)
		cmd := call(p.control(), method, string(b), false)
		said, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%q: %v: %s", cmd.Args, err, said)
		}
		return parseIndependent(t, string(said))
	}
	none := struct{}{}
	if r := once("org.varlink.service.GetInfo", none); r.Vendor != "sockwatch" || !slices.Contains(r.Interfaces, client.Interface) {
		t.Errorf("%+v", r)
	}
	if r := once("org.varlink.service.GetInterfaceDescription", map[string]string{"interface": client.Interface}); r.Description != client.Description {
		t.Errorf("%+v", r)
	}
	monitor := testutil.Start(t, call(p.control(), client.Interface+".Monitor", "{}", true))
	if r := parseIndependent(t, monitor.Line()); r.Event.Type != "" { // it has begun
		t.Errorf("%+v", r)
	}
	o := startPuppet(t)
	path := p.path("s")
	o.do("bind", path)
	w := once(client.Interface+".Watch", map[string]any{"process": o.identity().String(), "paths": []string{path}})
	if w.Claims != 1 || w.ID == "" {
		t.Errorf("%+v", w)
	}
	list := once(client.Interface+".List", none)
	if len(list.Owners) != 1 || list.Owners[0].ID != w.ID || list.Owners[0].PID != o.child.PID() || len(list.Owners[0].Claims) != 1 {
		t.Errorf("%+v", list)
	}
	o.kill()
	var seen []string
	for len(seen) == 0 || seen[len(seen)-1] != "outcome" {
		e := parseIndependent(t, monitor.Line()).Event
		if e.PID != o.child.PID() || e.Type == "outcome" && (e.Outcome != "removed" || e.Path.Path != path) {
			t.Errorf("%+v", e)
		}
		seen = append(seen, e.Type)
	}
	if !slices.Contains(seen, "claim") || !slices.Contains(seen, "exit") {
		t.Errorf("%q", seen)
	}
	monitor.Kill()
	p.stop()
}
