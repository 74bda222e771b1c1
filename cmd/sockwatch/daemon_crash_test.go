package main

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sockwatch/sockwatch/client"
	"github.com/sockwatch/sockwatch/internal/testutil"
)

// forever bounds a test that hangs. No test comes near it.
const forever = 3 * time.Minute

// reborn is a daemon that is killed and started again.
type reborn struct {
	t       *testing.T
	runtime string
	config  string // file; need not be there
	child   *testutil.Child
}

func newReborn(t *testing.T, config string) *reborn {
	t.Helper()
	dir := testutil.TempDir(t)
	d := &reborn{t: t, runtime: filepath.Join(dir, "run"), config: filepath.Join(dir, "config")}
	must(t, os.WriteFile(d.config, []byte(config), 0o600))
	d.start()
	return d
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// start returns when it is ready.
func (d *reborn) start() {
	d.t.Helper()
	ready, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: filepath.Join(testutil.TempDir(d.t), "ready")})
	must(d.t, err)
	defer ready.Close()
	cmd := exec.Command("sockwatch", "daemon", "--runtime-dir", d.runtime, "--config", d.config)
	cmd.Env = append(os.Environ(), "NOTIFY_SOCKET="+ready.LocalAddr().String())
	cmd.Stderr = os.Stderr
	d.child = testutil.Start(d.t, cmd)
	must(d.t, ready.SetReadDeadline(time.Now().Add(forever)))
	b := make([]byte, 4096)
	n, err := ready.Read(b)
	must(d.t, err)
	if !strings.HasPrefix(string(b[:n]), "READY=1") {
		d.t.Fatalf("the daemon says %q", b[:n])
	}
}

func (d *reborn) kill() {
	d.t.Helper()
	d.child.Kill()
}

// watch registers a process as a person does.
func (d *reborn) watch(pid int, paths ...string) {
	d.t.Helper()
	args := append([]string{"watch", "--runtime-dir", d.runtime, strconv.Itoa(pid)}, paths...)
	if status, stdout, stderr := sockwatch(d.t, exec.Command("sockwatch", args...)); status != 0 {
		d.t.Fatalf("sockwatch %q: %s%s", args, stdout, stderr)
	}
}

// until asks, between calls to the daemon, until it is so.
func (d *reborn) until(what string, so func(c *client.Client) bool) {
	d.t.Helper()
	c, err := client.Dial(d.t.Context(), filepath.Join(d.runtime, client.ControlName))
	must(d.t, err)
	defer c.Close()
	for deadline := time.Now().Add(forever); !so(c); {
		if time.Now().After(deadline) {
			d.t.Fatalf("waited in vain: %s", what)
		}
		if _, err := c.Status(d.t.Context()); err != nil {
			d.t.Fatal(err)
		}
	}
}

// claimed waits until a file is claimed for somebody. The list can be that of the whole machine, and who is slow in reading it is cut off:
// then it is asked for once more.
func (d *reborn) claimed(path string) {
	d.t.Helper()
	for deadline := time.Now().Add(forever); ; {
		c, err := client.Dial(d.t.Context(), filepath.Join(d.runtime, client.ControlName))
		must(d.t, err)
		owners, err := c.List(d.t.Context())
		c.Close()
		if slices.ContainsFunc(owners, func(o client.Owner) bool {
			return slices.ContainsFunc(o.Claims, func(c client.Claim) bool { return c.Exact() == path && !c.Pending })
		}) {
			return
		}
		if time.Now().After(deadline) {
			d.t.Fatalf("waited in vain: %s is claimed: %v", path, err)
		}
	}
}

// gone waits until a file is removed.
func (d *reborn) gone(path string) {
	d.t.Helper()
	d.until(path+" is gone", func(*client.Client) bool { return !there(d.t, path) })
}

// idle waits until the daemon has nothing left to do for anybody.
func (d *reborn) idle() {
	d.t.Helper()
	d.until("there are no records", func(*client.Client) bool {
		records, err := filepath.Glob(filepath.Join(d.runtime, "owners", "*.json*"))
		must(d.t, err)
		return len(records) == 0
	})
}

// held waits until it is known that a file is kept since a process holds the socket.
func (d *reborn) held(path string) {
	d.t.Helper()
	d.until(path+" is held", func(c *client.Client) bool {
		events, err := c.History(d.t.Context(), path)
		must(d.t, err)
		return len(events) > 0 && events[len(events)-1].Outcome == "alive" && events[len(events)-1].Reason == "holder"
	})
	if !there(d.t, path) {
		d.t.Errorf("%s is gone, and its socket is held", path)
	}
}

func there(t testing.TB, path string) bool {
	t.Helper()
	_, err := os.Lstat(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	return err == nil
}

// answers tells whether somebody accepts connections at a path.
func answers(path string) bool {
	c, err := net.Dial("unix", path)
	if err == nil {
		c.Close()
	}
	return err == nil
}

func inode(t testing.TB, path string) uint64 {
	t.Helper()
	var st unix.Stat_t
	must(t, unix.Lstat(path, &st))
	return st.Ino
}

// rebound is a server of this process at a path: what is there is replaced.
func rebound(t *testing.T, path string) {
	t.Helper()
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path})
	must(t, err)
	t.Cleanup(func() { l.Close() })
}

// TestDaemonKilledWhileHiding: the daemon was killed in the middle of a removal. What is dead by now is removed, and what lives has
// its name again.
func TestDaemonKilledWhileHiding(t *testing.T) {
	for _, feature := range []testutil.Feature{testutil.Ext4, testutil.Tmpfs} {
		t.Run(feature.String(), func(t *testing.T) {
			dir := testutil.Dir(t, feature)
			in := func(name string) string { return filepath.Join(dir, name) }
			hide := func(name string) {
				t.Helper()
				must(t, os.Rename(in(name), in(".sockwatch-"+strings.ToUpper(name))))
			}
			must(t, os.Mkdir(in("space"), 0o700))
			d := newReborn(t, fmt.Sprintf("[[bindspace]]\npath = %q\n", in("space")))
			names := []string{"live", "named", "dead", "taken"}
			servers := map[string]*testutil.Child{}
			for _, name := range names {
				s := testutil.Start(t, exec.Command("puppet", "listen", in(name), "say", "ready", "pause"))
				s.Expect("ready")
				servers[name] = s
			}
			d.watch(servers["live"].PID())
			d.watch(servers["named"].PID(), in("named"))
			d.watch(servers["dead"].PID())
			d.watch(servers["taken"].PID())
			d.kill()

			for _, name := range names {
				hide(name)
			}
			servers["dead"].Kill()
			servers["taken"].Kill()
			rebound(t, in("taken")) // another one's
			// Of these nobody has told the daemon.
			leaveDead(t, in("space/.sockwatch-LEFT"))
			rebound(t, in("space/unknown"))
			must(t, os.Rename(in("space/unknown"), in("space/.sockwatch-UNKNOWN")))

			d.start()
			for _, name := range []string{"live", "named"} {
				if !answers(in(name)) {
					t.Errorf("%s has not got its name back", name)
				}
			}
			d.until("what is unknown has its name back", func(*client.Client) bool { return there(t, in("space/unknown")) })
			for _, private := range []string{"DEAD", "TAKEN"} {
				d.gone(in(".sockwatch-" + private))
			}
			d.gone(in("space/.sockwatch-LEFT"))
			if !answers(in("taken")) || !answers(in("space/unknown")) {
				t.Error("a live server has lost its file")
			}
			servers["live"].Kill()
			servers["named"].Kill()
			d.gone(in("live"))
			d.gone(in("named"))
		})
	}
}

// leaveDead leaves the sock-file of nobody.
func leaveDead(t *testing.T, path string) {
	t.Helper()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path})
	must(t, err)
	l.SetUnlinkOnClose(false)
	must(t, l.Close())
}

// TestDaemonStopsWithLeftovers: what was left under a private name a moment ago is still settled by a daemon that is stopped at once: the
// next one has no record to know of it by.
func TestDaemonStopsWithLeftovers(t *testing.T) {
	dir := testutil.TempDir(t)
	d := newReborn(t, "")
	s := testutil.Start(t, exec.Command("puppet", "say", "ready", "pause"))
	s.Expect("ready")
	d.watch(s.PID(), filepath.Join(dir, "later")) // by name alone
	d.kill()
	s.Kill()
	left := filepath.Join(dir, ".sockwatch-LATER")
	leaveDead(t, left)
	d.start()
	must(t, d.child.Cmd.Process.Signal(unix.SIGTERM))
	must(t, d.child.Cmd.Wait())
	if there(t, left) {
		t.Error("it is left for good")
	}
}

// TestDaemonMissesReplacement: what was claimed by name and bound anew, both the bind and the death while there was no daemon.
func TestDaemonMissesReplacement(t *testing.T) {
	dir := testutil.TempDir(t)
	path := filepath.Join(dir, "s")
	d := newReborn(t, "")
	must(t, unix.Mkfifo(dir+"/go", 0o600))
	server := testutil.Start(t, exec.Command("puppet", "listen", path, "say", "ready", "hear", dir+"/go",
		"unlink", path, "listen", path, "say", "again", "pause"))
	server.Expect("ready")
	d.watch(server.PID(), path)
	d.kill()
	must(t, os.WriteFile(dir+"/go", nil, 0))
	server.Expect("again")
	server.Kill()
	d.start()
	d.gone(path)
	d.idle()
}
