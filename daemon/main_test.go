package daemon

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/sys/unix"

	"github.com/sockwatch/sockwatch/client"
	"github.com/sockwatch/sockwatch/internal/config"
	"github.com/sockwatch/sockwatch/internal/testutil"
)

func TestMain(m *testing.M) {
	testutil.Main(m, testutil.Helpers{"daemon": daemonProcess, "puppet": puppet})
}

// patience bounds a test that hangs. No test comes near it, and none measures time.
const patience = 3 * time.Minute

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// daemonProcess is a daemon: its arguments are the runtime directory, the file of its log and that of its configuration. It ends with its
// standard input, and by SIGTERM.
func daemonProcess() {
	log, err := os.OpenFile(os.Args[2], os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		panic(err)
	}
	c, err := config.Load(os.Args[3], false)
	if err == nil {
		err = runDaemon(Options{RuntimeDir: os.Args[1], Config: c, Version: "test", Log: zerolog.New(log)})
	}
	if err != nil {
		fmt.Println("error:", err)
		os.Exit(1)
	}
}

func runDaemon(o Options) error {
	d, err := New(o)
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGTERM)
	defer stop()
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		stop()
	}()
	fmt.Println("ready")
	return errors.Join(d.Run(ctx), d.Close())
}

// place is a runtime directory, and the daemons that are one after the other in it.
type place struct {
	t     testing.TB
	base  string // of the test's files
	dir   string // the runtime directory
	log   string // file
	conf  string // file; need not be there
	child *testutil.Child
}

func newPlace(t testing.TB) *place {
	t.Helper()
	base := testutil.TempDir(t)
	must(t, os.Chmod(base, 0o755)) // for processes of other users
	return &place{
		t: t, base: base, dir: filepath.Join(base, "run"), log: filepath.Join(base, "log"), conf: filepath.Join(base, "sockwatch.toml"),
	}
}

// path is that of a file of the test.
func (p *place) path(name string) string { return filepath.Join(p.base, name) }

func (p *place) control() string { return filepath.Join(p.dir, client.ControlName) }

// start starts a daemon.
func (p *place) start() {
	p.t.Helper()
	cmd := testutil.Command(p.t, "daemon", p.dir, p.log, p.conf)
	cmd.Env = append(cmd.Env, "GORACE=atexit_sleep_ms=0") // the race detector's own pause of a second at the end
	p.child = testutil.Start(p.t, cmd)
	p.child.Expect("ready")
}

// stop ends the daemon as a service manager does.
func (p *place) stop() {
	p.t.Helper()
	must(p.t, p.child.Cmd.Process.Signal(unix.SIGTERM))
	if err := p.child.Cmd.Wait(); err != nil {
		p.t.Errorf("the daemon's end: %v", err)
	}
}

// restart is a daemon killed and the next one started.
func (p *place) restart() {
	p.t.Helper()
	p.child.Kill()
	p.start()
}

// logged gives what is in the log by now.
func (p *place) logged() string {
	p.t.Helper()
	b, err := os.ReadFile(p.log)
	must(p.t, err)
	return string(b)
}

// serve runs a daemon in this process until the end of the test.
func (p *place) serve(c config.Config) *Daemon {
	p.t.Helper()
	log, err := os.OpenFile(p.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	must(p.t, err)
	p.t.Cleanup(func() { log.Close() })
	d, err := New(Options{RuntimeDir: p.dir, Config: c, Version: "test", Log: zerolog.New(log)})
	must(p.t, err)
	ctx, stop := context.WithCancel(context.Background())
	var run sync.WaitGroup
	run.Go(func() {
		if err := d.Run(ctx); err != nil {
			p.t.Errorf("serve: %v", err)
		}
	})
	p.t.Cleanup(func() {
		stop()
		run.Wait()
		if err := d.Close(); err != nil {
			p.t.Errorf("close: %v", err)
		}
	})
	return d
}

// config reads a configuration.
func (p *place) config(text string) config.Config {
	p.t.Helper()
	must(p.t, os.WriteFile(p.conf, []byte(text), 0o600))
	c, err := config.Load(p.conf, true)
	must(p.t, err)
	return c
}

// dial connects to the daemon.
func (p *place) dial() *caller {
	p.t.Helper()
	c, err := client.Dial(p.t.Context(), p.control())
	must(p.t, err)
	p.t.Cleanup(func() { c.Close() })
	return &caller{p.t, c}
}

// caller is a client of a daemon that must not fail.
type caller struct {
	t testing.TB
	c *client.Client
}

func (c *caller) watch(process string, paths ...string) client.Watched {
	c.t.Helper()
	w, err := c.c.Watch(c.t.Context(), client.WatchRequest{Process: process, Paths: paths})
	must(c.t, err)
	return w
}

// until calls again until there is what is wanted. Each time is a call to the daemon and its reply.
func (c *caller) until(what string, there func() bool) {
	c.t.Helper()
	for deadline := time.Now().Add(patience); !there(); {
		if time.Now().After(deadline) {
			c.t.Fatalf("waited in vain: %s", what)
		}
		if _, err := c.c.Status(c.t.Context()); err != nil {
			c.t.Fatal(err)
		}
	}
}

// gone waits until files are gone.
func (c *caller) gone(paths ...string) {
	c.t.Helper()
	for _, path := range paths {
		c.until(path+" is gone", func() bool { return !exists(c.t, path) })
	}
}

// outcome waits for the outcome of a path, and gives the latest.
func (c *caller) outcome(path string) client.Event {
	c.t.Helper()
	var events []client.Event
	c.until("outcome of "+path, func() bool {
		var err error
		events, err = c.c.History(c.t.Context(), path)
		must(c.t, err)
		return len(events) > 0
	})
	return events[len(events)-1]
}

// wantOutcome waits for the outcome of a path, which must be this one.
func (c *caller) wantOutcome(path, outcome string) client.Event {
	c.t.Helper()
	e := c.outcome(path)
	if e.Outcome != outcome {
		c.t.Errorf("outcome of %s: %+v, want %s", path, e, outcome)
	}
	return e
}

// owner gives what the daemon tells of a process.
func (c *caller) owner(pid int) (client.Owner, bool) {
	c.t.Helper()
	owners, err := c.c.List(c.t.Context())
	must(c.t, err)
	i := slices.IndexFunc(owners, func(o client.Owner) bool { return o.PID == pid })
	if i < 0 {
		return client.Owner{}, false
	}
	return owners[i], true
}

// claimed waits until a path is claimed for a process, and its file is known.
func (c *caller) claimed(pid int, path string) client.Claim {
	c.t.Helper()
	var claim client.Claim
	c.until("claim of "+path, func() bool {
		o, _ := c.owner(pid)
		i := slices.IndexFunc(o.Claims, func(c client.Claim) bool { return c.Path.Path == path && !c.Pending })
		if i >= 0 {
			claim = o.Claims[i]
		}
		return i >= 0
	})
	return claim
}

func exists(t testing.TB, path string) bool {
	t.Helper()
	_, err := os.Lstat(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	return err == nil
}

// kept fails the test when a file is not there.
func kept(t testing.TB, paths ...string) {
	t.Helper()
	for _, path := range paths {
		if !exists(t, path) {
			t.Errorf("%s is gone", path)
		}
	}
}

// lines are the lines of a log that have all the words.
func lines(log string, words ...string) (found []string) {
	for in := bufio.NewScanner(strings.NewReader(log)); in.Scan(); {
		if !slices.ContainsFunc(words, func(w string) bool { return !strings.Contains(in.Text(), w) }) {
			found = append(found, in.Text())
		}
	}
	return found
}
