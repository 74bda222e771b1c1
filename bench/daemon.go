package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// readyPatience is how long a daemon may take to serve.
const readyPatience = time.Minute

// daemonProcess is a `sockwatch daemon`.
type daemonProcess struct {
	cmd *exec.Cmd
	dir string // its runtime directory
	log string
}

// buildSockwatch builds the program as `make build` does.
func buildSockwatch(ctx context.Context, dir string) (string, error) {
	program := filepath.Join(dir, "sockwatch")
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags", "-s -w", "-o", program, "./cmd/sockwatch")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	cmd.Stderr = os.Stderr
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("build cmd/sockwatch (run this in the module's directory): %w", err)
	}
	return program, nil
}

// startDaemon starts a daemon with a runtime directory of its own in dir, and returns when it serves. Configuration is the text of its
// file.
func startDaemon(ctx context.Context, program, dir, configuration string, args ...string) (*daemonProcess, error) {
	runtimeDir, err := os.MkdirTemp(dir, "d")
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(runtimeDir, 0o755); err != nil { // for clients that are not root
		return nil, err
	}
	config, log := filepath.Join(runtimeDir, "config.toml"), filepath.Join(runtimeDir, "log")
	// What this machine's daemon is told is not for this one.
	if err := os.WriteFile(config, []byte(configuration), 0o600); err != nil {
		return nil, err
	}
	stderr, err := os.Create(log)
	if err != nil {
		return nil, err
	}
	defer stderr.Close()
	ready, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: filepath.Join(runtimeDir, "ready"), Net: "unixgram"})
	if err != nil {
		return nil, err
	}
	defer ready.Close()
	cmd := exec.CommandContext(ctx, program, append([]string{"daemon", "--runtime-dir", runtimeDir, "--config", config}, args...)...)
	cmd.Env = append(os.Environ(), "NOTIFY_SOCKET="+ready.LocalAddr().String())
	cmd.Stderr = stderr
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	d := &daemonProcess{cmd: cmd, dir: runtimeDir, log: log}
	if err := awaitServing(ready); err != nil {
		return nil, fmt.Errorf("the daemon does not serve: %w", errors.Join(err, d.end()))
	}
	return d, nil
}

// awaitServing waits for the daemon's READY=1, sd_notify(3).
func awaitServing(ready *net.UnixConn) error {
	if err := ready.SetReadDeadline(time.Now().Add(readyPatience)); err != nil {
		return err
	}
	for message := make([]byte, 1024); ; {
		n, err := ready.Read(message)
		if err != nil || bytes.HasPrefix(message[:n], []byte("READY=1")) {
			return err
		}
	}
}

func (d *daemonProcess) control() string { return filepath.Join(d.dir, "control") }

// end ends the daemon. What it had to say is in the error if it failed.
func (d *daemonProcess) end() error {
	err := d.cmd.Process.Signal(unix.SIGTERM)
	if err = errors.Join(err, d.cmd.Wait()); err != nil {
		said, _ := os.ReadFile(d.log)
		err = fmt.Errorf("daemon: %w\n%s", err, said)
	}
	return err
}

// memory is what a process has, in bytes.
type memory struct {
	resident  int64 // VmRSS
	anonymous int64 // of it, what is no file's: its own
	kernel    int64 // the slabs of the whole machine
}

func (d *daemonProcess) memory() (m memory, err error) {
	status := filepath.Join(procDir(d.cmd.Process.Pid), "status")
	for _, field := range []struct {
		of   *int64
		path string
		name string
	}{{&m.resident, status, "VmRSS:"}, {&m.anonymous, status, "RssAnon:"}, {&m.kernel, "/proc/meminfo", "Slab:"}} {
		kb, err := procField(field.path, field.name)
		if err != nil {
			return m, err
		}
		*field.of = kb << 10
	}
	return m, nil
}

// wakeUps counts how often threads of the daemon went to sleep, or had to make room for others, in a time.
func (d *daemonProcess) wakeUps(ctx context.Context, during time.Duration) (int64, error) {
	before, err := switches(d.cmd.Process.Pid)
	if err != nil {
		return 0, err
	}
	if err := wait(ctx, during); err != nil {
		return 0, err
	}
	after, err := switches(d.cmd.Process.Pid)
	return after - before, err
}

func wait(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}
