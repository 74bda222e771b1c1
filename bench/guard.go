package main

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
)

// guardServers is `bench guard DIR`, the same as `floor guard DIR` by package watch: each line is a PID and the name of its sock-file.
func guardServers(dir string) (err error) {
	l, err := newLibrary(1)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, l.close()) }()
	fmt.Println("{}")
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		number, name, _ := strings.Cut(lines.Text(), " ")
		pid, err := strconv.Atoi(number)
		if err != nil {
			return err
		}
		if err := errors.Join(l.add(0, 0, pid, filepath.Join(dir, name)), l.added(1)); err != nil {
			return err
		}
		fmt.Println("{}")
		if _, err := l.outcome(); err != nil {
			return err
		}
		fmt.Println("{}")
	}
	return nil
}

// waitAndRemove is `bench parent SERVER PATH ADDRESS`, what Go programs do: for each line the server is started, waited for, and its
// sock-file removed.
func waitAndRemove(argv []string) error {
	fmt.Println("{}")
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		cmd := exec.Command(argv[0], argv[1:]...)
		if err := cmd.Start(); err != nil {
			return err
		}
		_ = cmd.Wait() // killed
		if err := os.Remove(argv[1]); err != nil {
			return err
		}
		fmt.Println("{}")
	}
	return nil
}
