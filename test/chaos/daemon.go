package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sockwatch/sockwatch/client"
)

const (
	// early is how long after its start a daemon is killed at the latest that is to be killed while it starts.
	early = 60 * time.Millisecond
	// someSteps is how many things happen at the most to servers before a daemon is killed that has started. One of ten has more time, so
	// that what a start takes long for comes to its end sometimes.
	someSteps = 50
	manySteps = 1000
	// uneventful is when it is killed though nothing happens any more.
	uneventful = 2 * time.Second
	// without is how long there is no daemon, at the longest.
	without = 100 * time.Millisecond
)

// executioner starts daemons and kills them.
type executioner struct {
	plan
	run   string // runtime directory
	step  chan struct{}
	kills uint64
}

// work goes on until ctx ends. It returns the last daemon, which lives, and has time to do so.
func (e *executioner) work(ctx context.Context) (*running, error) {
	for {
		d, err := e.start()
		if err != nil {
			return nil, err
		}
		if rand.IntN(4) == 0 {
			d.await(ctx, rand.N(early))
		} else {
			if err := d.ready(e.run); err != nil {
				d.kill()
				return nil, err
			}
			calm := time.NewTimer(uneventful)
			steps := someSteps
			if rand.IntN(10) == 0 {
				steps = manySteps
			}
			for n := rand.IntN(steps); n > 0; n-- {
				select {
				case <-e.step:
				case <-calm.C:
					n = 0
				case <-ctx.Done():
					n = 0
				case <-d.ended:
					n = 0
				}
			}
			calm.Stop()
		}
		if err := d.over(); err != nil {
			return nil, err
		}
		select {
		case <-ctx.Done():
			return d, nil
		default:
		}
		d.kill()
		e.kills++
		if rand.IntN(3) == 0 {
			pause(rand.N(without))
		}
	}
}

// running is a daemon.
type running struct {
	cmd   *exec.Cmd
	ended chan struct{}
	err   error // of its end
}

func (e *executioner) start() (*running, error) {
	log, err := os.OpenFile(filepath.Join(filepath.Dir(e.run), "log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	d := &running{ended: make(chan struct{})}
	args := append(e.daemon[1:len(e.daemon):len(e.daemon)], "--runtime-dir", e.run, "--config", filepath.Join(filepath.Dir(e.run), "config"))
	d.cmd = exec.Command(e.daemon[0], args...)
	d.cmd.Env = append(os.Environ(), e.env...)
	d.cmd.Stdout, d.cmd.Stderr = log, log
	if err := d.cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		d.err = d.cmd.Wait()
		close(d.ended)
	}()
	return d, nil
}

// ready waits until it answers.
func (d *running) ready(run string) error {
	err := until(func() (bool, error) {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		c, err := client.Dial(ctx, filepath.Join(run, client.ControlName))
		if err == nil {
			_, err = c.Status(ctx)
			c.Close()
		}
		return err == nil, d.over()
	})
	if errors.Is(err, errInVain) {
		return errors.New("the daemon does not come up")
	}
	return err
}

func (d *running) await(ctx context.Context, t time.Duration) {
	select {
	case <-time.After(t):
	case <-d.ended:
	case <-ctx.Done():
	}
}

// over is an error when it has ended without having been killed.
func (d *running) over() error {
	select {
	case <-d.ended:
		return fmt.Errorf("the daemon has ended by itself: %w", errors.Join(d.err, errors.New("see its log")))
	default:
		return nil
	}
}

func (d *running) kill() {
	_ = d.cmd.Process.Kill()
	<-d.ended
}

// stop ends it as a service manager does.
func (d *running) stop() error {
	_ = d.cmd.Process.Signal(unix.SIGTERM)
	select {
	case <-d.ended:
		return d.err
	case <-time.After(patience):
		d.kill()
		return errors.New("the daemon does not end")
	}
}
