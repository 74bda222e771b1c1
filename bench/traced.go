package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// traced is a loop, and who looks on.
type traced struct {
	loop   *side
	tracer *exec.Cmd     // nil is nobody
	said   *bytes.Buffer // on standard error
	heard  chan struct{} // all was read
	start  time.Duration // until it was ready to trace
}

// begin starts a loop with a tracer that is ready, or with none, nil.
func (b *tracingBench) begin(ctx context.Context, t *tracer) (_ *traced, err error) {
	r := &traced{said: &bytes.Buffer{}, heard: make(chan struct{})}
	if t == nil {
		r.loop, err = start(ctx, []string{b.loop, b.path})
		return r, err
	}
	r.tracer = exec.CommandContext(ctx, t.argv[0], t.argv[1:]...)
	r.tracer.Env = append(os.Environ(), "BPFTRACE_STRLEN=109") // a path and its end
	began := time.Now()
	if t.starts {
		close(r.heard)
		r.tracer.Stderr = r.said
		if r.loop, err = startCommand(r.tracer); err != nil {
			return nil, fmt.Errorf("%w\n%s", err, r.said)
		}
		r.start = time.Since(began)
		return r, nil
	}
	if err := b.startBeside(r); err != nil {
		return nil, err
	}
	r.start = time.Since(began)
	if r.loop, err = start(ctx, []string{b.loop, b.path}); err != nil {
		return nil, errors.Join(err, r.endTracer())
	}
	return r, nil
}

// startBeside starts a tracer that does not start the loop.
func (b *tracingBench) startBeside(r *traced) error {
	output, err := os.Create(b.output)
	if err != nil {
		return err
	}
	defer output.Close()
	r.tracer.Stdout = output
	stderr, err := r.tracer.StderrPipe()
	if err != nil {
		return err
	}
	if err := r.tracer.Start(); err != nil {
		return err
	}
	ready := make(chan bool, 1)
	go func() {
		defer close(r.heard)
		defer close(ready)
		for lines := bufio.NewScanner(stderr); lines.Scan(); {
			if strings.HasPrefix(lines.Text(), tracingBy) {
				ready <- true
			}
			r.said.WriteString(lines.Text() + "\n")
		}
	}()
	if !<-ready {
		return fmt.Errorf("%v does not trace: %w", r.tracer.Args, r.endTracer())
	}
	return nil
}

// end ends both. What the tracer has said is in the error if it failed.
func (r *traced) end(t *tracer) error {
	if err := r.loop.end(); err != nil {
		return fmt.Errorf("%v: %w\n%s", r.loop.cmd.Args, err, r.said)
	}
	if t == nil || t.starts {
		return nil
	}
	return r.endTracer()
}

func (r *traced) endTracer() error {
	_ = r.tracer.Process.Signal(unix.SIGINT) // it may have ended
	<-r.heard
	if err := r.tracer.Wait(); err != nil {
		return fmt.Errorf("%v: %w\n%s", r.tracer.Args, err, r.said)
	}
	return nil
}

// settle waits until a tracer has nothing more to do: it may be behind. It gives up where others on the machine leave it no rest.
func (r *traced) settle(ctx context.Context) error {
	if r.tracer == nil {
		return nil
	}
	const (
		look    = 20 * time.Millisecond
		patient = 100
		nothing = 100 * time.Microsecond // bpftrace looks around now and then
	)
	before, err := workOf(r.tracer.Process.Pid)
	for range patient {
		if err = errors.Join(err, wait(ctx, look)); err != nil {
			return err
		}
		var after work
		if after, err = workOf(r.tracer.Process.Pid); after.since(before).cpu < nothing.Nanoseconds() {
			return err
		}
		before = after
	}
	return err
}
