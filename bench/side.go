package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"syscall"
	"time"
)

// A side is one of the programs that are compared, at work. They speak the protocol that floor.c describes, or loop.c.
type side struct {
	cmd  *exec.Cmd
	in   io.WriteCloser
	out  *json.Decoder
	heap int64 // bytes per owner; 0 of the floor
}

// greeting is a side's first line. That of loop.c is empty.
type greeting struct {
	Watched      int   `json:"watched"`
	HeapPerOwner int64 `json:"heap_per_owner"`
}

// death is one kill, in nanoseconds since some moment of the side's own.
type death struct {
	Kill      int64 `json:"kill_ns"`
	ExitEvent int64 `json:"exit_event_ns"`
	Gone      int64 `json:"gone_ns"`
	// Removal is how long the removal alone took; the floor, where it is all there is, does not tell.
	Removal int64 `json:"removal_ns"`
}

// burst is the kill of all at once: before the first kill, after the last one, after the last file was gone.
type burst struct {
	Kill   int64 `json:"kill_ns"`
	Killed int64 `json:"killed_ns"`
	Gone   int64 `json:"gone_ns"`
}

// start starts a side and returns when it watches its owners.
func start(ctx context.Context, argv []string) (*side, error) {
	return startAs(ctx, argv, nil)
}

// startAs is start as a user; nil is our own.
func startAs(ctx context.Context, argv []string, user *syscall.Credential) (*side, error) {
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: user}
	cmd.Stderr = os.Stderr
	return startCommand(cmd)
}

// startCommand is start with a command that may have more than arguments.
func startCommand(cmd *exec.Cmd) (*side, error) {
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	s := &side{cmd: cmd, in: in, out: json.NewDecoder(bufio.NewReader(out))}
	var g greeting
	if err := s.out.Decode(&g); err != nil {
		return nil, fmt.Errorf("%v did not begin: %w", cmd.Args, errors.Join(err, s.end()))
	}
	s.heap = g.HeapPerOwner
	return s, nil
}

// kill has n owners killed, one after the other.
func (s *side) kill(n int) ([]death, error) {
	if _, err := fmt.Fprintln(s.in, n); err != nil {
		return nil, err
	}
	deaths := make([]death, n)
	for i := range deaths {
		if err := s.out.Decode(&deaths[i]); err != nil {
			return nil, fmt.Errorf("read a sample of %v: %w", s.cmd.Args, err)
		}
	}
	return deaths, nil
}

// add has the side watch again, over so many connections, what drop has it no longer watch. It tells how long that took.
func (s *side) add(connections int) (time.Duration, error) {
	return s.timed(fmt.Sprintf("add %d", connections))
}

func (s *side) drop() (time.Duration, error) { return s.timed("drop") }

func (s *side) timed(command string) (time.Duration, error) {
	if _, err := fmt.Fprintln(s.in, command); err != nil {
		return 0, err
	}
	var took struct {
		Nanoseconds int64 `json:"took_ns"`
	}
	if err := s.out.Decode(&took); err != nil {
		return 0, fmt.Errorf("%s of %v: %w", command, s.cmd.Args, err)
	}
	return time.Duration(took.Nanoseconds), nil
}

// say says a line to it.
func (s *side) say(line string) error {
	_, err := fmt.Fprintln(s.in, line)
	return err
}

// answered returns when it has answered, by an object with nothing in it that is asked for.
func (s *side) answered() error {
	if err := s.out.Decode(&struct{}{}); err != nil {
		return fmt.Errorf("read an answer of %v: %w", s.cmd.Args, err)
	}
	return nil
}

// end has the side clean up and waits for it.
func (s *side) end() error {
	_ = s.in.Close()
	return s.cmd.Wait()
}
