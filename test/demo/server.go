package main

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sockwatch/sockwatch/pidfd"
)

// patience bounds everything that the demo waits for.
const patience = 3 * time.Minute

// server is a running victim, and the command that started it: itself or
// `sockwatch run`.
type server struct {
	cmd    *exec.Cmd
	cancel context.CancelFunc
	victim *pidfd.Process
}

// start runs the command until its victim listens, and shows the line that says so.
func start(command ...string) (*server, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	cmd := exec.CommandContext(ctx, command[0], command[1:]...)
	cmd.Stderr = os.Stderr
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		cancel()
		return nil, err
	}
	s := &server{cmd: cmd, cancel: cancel}
	if err := cmd.Start(); err != nil {
		cancel()
		return nil, err
	}
	line, err := bufio.NewReader(stdout).ReadString('\n')
	if err != nil {
		s.stop()
		return nil, fmt.Errorf("%s never listened: %w", command[0], err)
	}
	var pid int
	if _, err := fmt.Sscanf(line, "victim %d ", &pid); err != nil {
		s.stop()
		return nil, fmt.Errorf("not the line of a victim: %q", line)
	}
	fmt.Println(" ", strings.TrimSpace(line))
	if s.victim, err = pidfd.Open(pid); err != nil {
		s.stop()
		return nil, err
	}
	return s, nil
}

// kill9 kills the victim, not the command that started it.
func (s *server) kill9() error {
	fmt.Println("  kill -9", s.victim.PID())
	return s.victim.Signal(unix.SIGKILL)
}

// wait returns how the command ended.
func (s *server) wait() string {
	_ = s.cmd.Wait() // the state says more
	return s.cmd.ProcessState.String()
}

// stop leaves no process behind, whatever went wrong.
func (s *server) stop() {
	if s.victim != nil {
		_ = s.victim.Signal(unix.SIGKILL)
		s.victim.Close()
	}
	s.cancel()
	if s.cmd.ProcessState == nil {
		_ = s.cmd.Wait()
	}
}
