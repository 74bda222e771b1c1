package testutil

import (
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"sync"
)

// Pytest is a Python that has pytest and pytest-xdist: see [Python]. In SOCKWATCH_TEST_REQUIRE it is one of "programs".
var Pytest = Feature{name: programs, check: func() error {
	_, err := Python()
	return err
}}

// Python returns the interpreter that [Pytest] means. What is called python3 need not be the one that the distribution's
// packages are for.
var Python = sync.OnceValues(func() (string, error) {
	var errs []error
	for _, python := range []string{"python3", "/usr/bin/python3"} {
		said, err := exec.Command(python, "-c", "import pytest, xdist").CombinedOutput()
		if err == nil {
			return python, nil
		}
		lines := strings.Split(strings.TrimSpace(string(said)), "\n")
		errs = append(errs, fmt.Errorf("%s: %w: %s", python, err, lines[len(lines)-1]))
	}
	return "", errors.Join(errs...)
})
