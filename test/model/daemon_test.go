package model

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"github.com/sockwatch/sockwatch/client"
	"github.com/sockwatch/sockwatch/daemon"
)

// TestDaemon has the daemon remove what dies. It is killed and started again, too.
func TestDaemon(t *testing.T) {
	s := newSetting(t)
	atMost(t, "25")
	rapid.Check(t, func(t *rapid.T) {
		serve := func(m *machine) service { return newDaemon(m) }
		if err := s.try(t, serve, func(m *machine) map[string]func() {
			d := m.service.(*running)
			d.start()
			return map[string]func(){"crash": d.crash, "crash again": d.crash, "revive": func() {
				if d.up() {
					m.Skip("it lives")
				}
				d.revive()
			}}
		}); err != nil {
			t.Fatal(err)
		}
	})
}

// running is a daemon, and those that come after it.
type running struct {
	m      *machine
	dir    string // its runtime directory
	log    string
	config string
	cmd    *exec.Cmd // nil: it was killed
	stdin  *os.File
	client *client.Client
}

func newDaemon(m *machine) *running {
	d := &running{m: m, dir: m.path("run"), log: m.path("log"), config: m.path("config")}
	config := fmt.Sprintf("log_level = \"warn\"\n[[bindspace]]\npath = %q\nsweep = true\n", m.path(space))
	m.must(os.WriteFile(d.config, []byte(config), 0o600))
	return d
}

// start starts a daemon and waits until it is ready.
func (d *running) start() {
	stdin, ours, err := os.Pipe()
	d.m.must(err)
	defer stdin.Close()
	out, stdout, err := os.Pipe()
	if err == nil {
		defer out.Close()
		d.cmd = exec.Command(d.m.puppet.Path, d.dir, d.log, d.config)
		d.cmd.Env = append(d.m.puppet.Env[:len(d.m.puppet.Env):len(d.m.puppet.Env)], "SOCKWATCH_TEST_CHILD=daemon", "GORACE=atexit_sleep_ms=0")
		d.cmd.Stdin, d.cmd.Stdout, d.cmd.Stderr = stdin, stdout, os.Stderr
		err = d.cmd.Start()
		stdout.Close()
	}
	if err != nil {
		ours.Close()
		d.cmd = nil
		d.m.Fatal(err)
	}
	d.stdin = ours
	d.m.must(out.SetReadDeadline(time.Now().Add(patience)))
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "ready\n" {
		d.m.wrongly("the daemon says %q, %v", line, err)
	}
	d.client, err = client.Dial(d.m.Context(), filepath.Join(d.dir, client.ControlName))
	d.m.must(err)
}

func (d *running) up() bool { return d.cmd != nil }

func (d *running) crash() {
	if !d.up() {
		d.m.Skip("it is dead")
	}
	d.m.say("the daemon is killed")
	d.kill()
	d.m.removing = true // it may have been at it
}

func (d *running) kill() {
	if d.cmd == nil {
		return
	}
	_ = d.cmd.Process.Kill()
	_ = d.over()
}

// over gives up what belongs to a daemon that has ended, or is about to.
func (d *running) over() error {
	err := d.cmd.Wait()
	d.stdin.Close()
	if d.client != nil {
		d.client.Close()
	}
	d.cmd, d.client = nil, nil
	return err
}

// revive starts the next daemon if there is none.
func (d *running) revive() {
	if d.up() {
		return
	}
	for _, f := range d.m.files {
		for p := range f.claimants {
			if p.dead && p.apart { // the way to the file was by its root directory
				f.loosen("its owner was dead before the daemon could take up what it had claimed in another mount namespace")
			}
		}
	}
	d.m.say("a daemon starts")
	d.start()
}

func (d *running) notify() string     { return filepath.Join(d.dir, daemon.NotifyName) }
func (d *running) keepsReports() bool { return false } // one that is in its queue dies with it

// takesSpaces: another root directory is another tree of names.
func (d *running) takesSpaces(p *process) bool { return !p.apart }

func (d *running) request(p *process, paths, spaces []string) client.Watched {
	w, err := d.client.Watch(d.m.Context(), client.WatchRequest{Process: p.id.String(), Paths: paths, Bindspaces: spaces})
	if err != nil {
		d.m.wrongly("watch %s: %v", p, err)
	}
	return w
}

func (d *running) watch(p *process, paths, spaces []string) bool {
	d.request(p, paths, spaces)
	return true
}

func (d *running) claim(p *process, path string) {
	d.m.must(d.client.Claim(d.m.Context(), d.request(p, nil, nil).ID, path))
	d.m.held(p)
}

func (d *running) snapshot(p *process) { d.request(p, nil, nil) }

// known looks for the file in the records, which is what outlives the daemon.
func (d *running) known(f *file) bool {
	id, ok := identity(d.m, f)
	if !ok {
		return false
	}
	for _, record := range d.records() {
		b, err := os.ReadFile(record)
		if err == nil && strings.Contains(string(b), fmt.Sprintf(`"file":%q`, id)) {
			return true
		}
	}
	return false
}

func (d *running) records() []string {
	records, err := filepath.Glob(filepath.Join(d.dir, "owners", "*.json"))
	d.m.must(err)
	return records
}

// await asks the daemon for its state in between.
func (d *running) await(done func() bool) bool {
	for deadline := time.Now().Add(d.m.patience()); !done(); {
		if time.Now().After(deadline) {
			return false
		}
		if _, err := d.client.Status(d.m.Context()); err != nil {
			d.m.wrongly("the daemon: %v", err)
		}
	}
	return true
}

func (d *running) settled(p *process) {
	if !d.await(func() bool {
		owners, err := d.client.List(d.m.Context())
		d.m.must(err)
		return !slices.ContainsFunc(owners, func(o client.Owner) bool {
			return o.Process == p.id.String() && (!o.Ended || slices.ContainsFunc(o.Claims, func(c client.Claim) bool { return c.Outcome == "" }))
		})
	}) {
		d.m.wrongly("%s is dead, and what is claimed for it is not settled", p)
	}
}

func (d *running) troubles() (troubles []string) {
	b, err := os.ReadFile(d.log)
	if err != nil {
		return nil
	}
	for line := range strings.Lines(string(b)) {
		if strings.Contains(line, `"level":"error"`) {
			troubles = append(troubles, line)
		}
	}
	return troubles
}

func (d *running) describe() string {
	var b strings.Builder
	for _, record := range d.records() {
		text, _ := os.ReadFile(record)
		fmt.Fprintf(&b, "%s: %s\n", filepath.Base(record), text)
	}
	if d.client != nil {
		events, _ := d.client.History(d.m.Context(), "")
		for _, e := range events {
			text, _ := json.Marshal(e)
			fmt.Fprintf(&b, "%s\n", text)
		}
	}
	text, _ := os.ReadFile(d.log)
	return b.String() + string(text)
}

// stop ends it as a service manager does.
func (d *running) stop() error {
	_ = d.cmd.Process.Signal(unix.SIGTERM)
	return d.over()
}

func (d *running) close() { d.kill() }
