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
)

// A side is one of the two programs that are compared, at work. They speak the protocol that floor.c describes.
type side struct {
	cmd  *exec.Cmd
	in   io.WriteCloser
	out  *json.Decoder
	heap int64 // bytes per owner; 0 of the floor
}

// greeting is a side's first line.
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
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Stderr = os.Stderr
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
		return nil, fmt.Errorf("%v watched nothing: %w", argv, errors.Join(err, s.end()))
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

// end has the side clean up and waits for it.
func (s *side) end() error {
	_ = s.in.Close()
	return s.cmd.Wait()
}
