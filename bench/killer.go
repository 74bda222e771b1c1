package main

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// killer is another process that kills: who watches in the process that kills is awake at the time, and its code in the caches, which a
// daemon's never is.
type killer struct{ *side }

func startKiller() (*killer, error) {
	cmd := exec.Command("/proc/self/exe", "killer")
	cmd.Stderr = os.Stderr
	s, err := startCommand(cmd)
	return &killer{s}, err
}

// kill has a process killed. It does not wait for that: there is no answer, which would wake this process at the wrong time.
func (k *killer) kill(pid int) error { return k.say(strconv.Itoa(pid)) }

// killed is when the last one was.
func (k *killer) killed() (time.Time, error) {
	if err := k.say(""); err != nil {
		return time.Time{}, err
	}
	var last struct {
		At int64 `json:"unix_ns"`
	}
	err := k.out.Decode(&last)
	return time.Unix(0, last.At), err
}

// killAsTold is `bench killer`: each line is the PID of a process to be killed, or empty, to be answered when the last one was: before
// its kill(2), in nanoseconds since 1970.
func killAsTold() error {
	fmt.Println("{}")
	var at int64
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		line := lines.Text()
		if line == "" {
			fmt.Printf("{\"unix_ns\":%d}\n", at)
			continue
		}
		pid, err := strconv.Atoi(line)
		if err != nil {
			return err
		}
		at = time.Now().UnixNano()
		if err := unix.Kill(pid, unix.SIGKILL); err != nil {
			return err
		}
	}
	return nil
}
