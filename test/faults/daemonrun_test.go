//go:build failpoints

package faults

import (
	"bytes"
	"context"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sockwatch/sockwatch/pidfd"
)

// bell wakes who waits for something to have happened. Rung twice it wakes once.
type bell chan struct{}

func (b bell) ring() {
	select {
	case b <- struct{}{}:
	default:
	}
}

// running is a daemon.
type running struct {
	t       testing.TB
	faults  string
	cmd     *exec.Cmd
	ready   *net.UnixConn
	log     *os.File // its stderr: what it had written before it answered somebody is there by then
	stdout  bytes.Buffer
	waiting sync.WaitGroup

	mu   sync.Mutex
	dead bool
}

// startDaemon starts a daemon in base/run, and rings when it ends. Its log is in base.
func startDaemon(t testing.TB, base, faults string, b bell) *running {
	t.Helper()
	d := &running{t: t, faults: faults}
	d.cmd = command(t, faults, "daemon", "--log-level", "debug",
		"--runtime-dir", filepath.Join(base, "run"), "--config", filepath.Join(base, "config"))
	notify := filepath.Join(base, "ready")
	_ = os.Remove(notify)
	var err error
	if d.log, err = os.CreateTemp(base, "log"); err != nil {
		t.Fatal(err)
	}
	d.ready, err = net.ListenUnixgram("unixgram", &net.UnixAddr{Name: notify, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	d.cmd.Env = append(d.cmd.Env, "NOTIFY_SOCKET="+notify)
	d.cmd.Stdout, d.cmd.Stderr, d.cmd.WaitDelay = &d.stdout, d.log, patience
	if err := d.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	handle, err := pidfd.Open(d.cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	d.waiting.Go(func() {
		defer handle.Close()
		_ = handle.Wait(context.Background())
		d.mu.Lock()
		d.dead = true
		d.mu.Unlock()
		_ = d.ready.SetReadDeadline(time.Unix(1, 0)) // whoever waits for it to be ready
		b.ring()
	})
	return d
}

// isReady waits until the daemon is ready, and tells whether it is; else it has ended.
func (d *running) isReady() bool {
	d.t.Helper()
	late := time.AfterFunc(patience, func() { _ = d.cmd.Process.Signal(unix.SIGQUIT) })
	defer late.Stop()
	b := make([]byte, 4096)
	n, err := d.ready.Read(b)
	return err == nil && strings.HasPrefix(string(b[:n]), "READY=1")
}

// isDead tells whether it has ended.
func (d *running) isDead() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.dead
}

// said is what it has written to stderr, but for so many bytes at the beginning.
func (d *running) said(after int) string {
	b, err := os.ReadFile(d.log.Name())
	if err != nil {
		d.t.Error(err)
	}
	return string(b[min(after, len(b)):])
}

// fired tells whether there was a fault by now.
func (d *running) fired() bool {
	return d.faults != "" && strings.Contains(d.said(0), "failpoint: ")
}

// goesOnFailing tells whether there will be more faults than one.
func (d *running) goesOnFailing() bool { return d.faults != "" && !strings.Contains(d.faults, ":") }

// stop ends it as a service manager does.
func (d *running) stop() ended {
	d.t.Helper()
	_ = d.cmd.Process.Signal(unix.SIGTERM)
	return d.over()
}

// over is its end, which has come or is about to.
func (d *running) over() ended {
	d.t.Helper()
	late := time.AfterFunc(patience, func() { _ = d.cmd.Process.Signal(unix.SIGQUIT) })
	d.waiting.Wait()
	late.Stop()
	d.close()
	return await(d.t, d.cmd, &d.stdout, bytes.NewBufferString(d.said(0)))
}

func (d *running) close() {
	d.ready.Close()
	d.log.Close()
}

// killed tells whether it was killed at a point, and is dead or about to be.
func (d *running) killed() bool {
	return d.faults != "" && strings.Contains(d.said(0), ": kill\n")
}

// crash kills it, unless it has died already, and gives the faults that there were.
func (d *running) crash() (faults []string) {
	d.t.Helper()
	if d.killed() {
		return d.over().faults
	}
	_ = d.cmd.Process.Kill()
	_ = d.cmd.Wait() // tells of the signal
	d.waiting.Wait()
	d.close()
	for line := range strings.Lines(d.said(0)) {
		if fault, ok := strings.CutPrefix(line, "failpoint: "); ok {
			faults = append(faults, strings.TrimSuffix(fault, "\n"))
		}
	}
	return faults
}
