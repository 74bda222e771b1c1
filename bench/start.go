package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"time"
)

// starts are those of one small command that binds a sock-file: by itself, by `sockwatch run` without a daemon, and with one. They
// took turns.
type starts struct{ bare, alone, withDaemon []started }

// started is how long a command took: until it listened, and from its standard input's end until its own, or run's.
type started struct{ listening, ended time.Duration }

// measureStarts starts a command n times in each form. The daemon is the one that run finds.
func measureStarts(ctx context.Context, n int, program, floor, dir string, d *daemonProcess) (m starts, err error) {
	fmt.Fprintf(os.Stderr, "starting a command 3 x %d\n", n)
	nobody, err := os.MkdirTemp(dir, "none")
	if err != nil {
		return m, err
	}
	path := filepath.Join(dir, "command.sock")
	command := []string{floor, "child", path}
	run := append([]string{program, "run", "--bind", path, "--"}, command...)
	forms := []struct {
		argv       []string
		runtimeDir string
		took       *[]started
	}{{command, nobody, &m.bare}, {run, nobody, &m.alone}, {run, d.dir, &m.withDaemon}}
	for i := range n * len(forms) {
		f := forms[(i+i/len(forms))%len(forms)] // who is first changes
		s, err := startOnce(ctx, f.argv, f.runtimeDir)
		if err != nil {
			return m, fmt.Errorf("%v: %w", f.argv, err)
		}
		*f.took = append(*f.took, s)
	}
	return m, nil
}

func startOnce(ctx context.Context, argv []string, runtimeDir string) (s started, err error) {
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Env = append(os.Environ(), "SOCKWATCH_RUNTIME_DIR="+runtimeDir)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		return s, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return s, err
	}
	start := time.Now()
	if err := cmd.Start(); err != nil {
		return s, err
	}
	_, readErr := io.ReadFull(out, make([]byte, 1))
	listening := time.Now()
	s.listening = listening.Sub(start)
	_ = in.Close()
	if err := cmd.Wait(); err != nil {
		return s, err
	}
	s.ended = time.Since(listening)
	return s, readErr
}
