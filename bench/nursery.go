package main

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// openNursery has another process start the owners: then they are no children of who watches them, and cannot be waited for.
func (s *server) openNursery() (err error) {
	cmd := exec.Command("/proc/self/exe", "nursery", s.floor)
	cmd.Stderr = os.Stderr
	cmd.ExtraFiles = []*os.File{s.stay, s.readyW}
	s.nursery, err = startCommand(cmd)
	return err
}

// nurse is `bench nursery FLOOR`: each line is the path of an owner to be started, whose PID is answered, or the PID of one to be reaped.
func nurse(floor string) error {
	stay, ready := os.NewFile(3, "stay"), os.NewFile(4, "ready")
	for _, f := range []*os.File{stay, ready} { // an owner has its own of them
		unix.CloseOnExec(int(f.Fd()))
	}
	fmt.Println("{}")
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		line := lines.Text()
		var pid int
		var err error
		if strings.HasPrefix(line, "/") {
			pid, err = spawnChild(floor, line, stay, ready)
		} else if pid, err = strconv.Atoi(line); err == nil {
			err = reapChild(pid)
		}
		if err != nil {
			return err
		}
		fmt.Printf("{\"pid\":%d}\n", pid)
	}
	return nil
}

// spawn asks a nursery for an owner.
func (s *side) spawn(path string) (int, error) {
	if err := s.say(path); err != nil {
		return 0, err
	}
	var child struct {
		PID int `json:"pid"`
	}
	err := s.out.Decode(&child)
	return child.PID, err
}

// reap has a nursery reap a dead owner.
func (s *side) reap(pid int) error {
	if err := s.say(strconv.Itoa(pid)); err != nil {
		return err
	}
	return s.answered()
}
