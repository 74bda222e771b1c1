package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// suite is the tests of a package.
type suite struct {
	name   string // the directory, from the root of the module
	dir    string
	binary string // "" when there are no tests
	only   string // regular expression of the tests that depend on the kernel, "" is all
	skip   string // regular expression of the tests that are left out, and why
	why    string
}

// leftOut are tests that are not for an emulated processor.
var leftOut = map[string]struct{ skip, why string }{
	"reap":             {"^(TestSweepAgainstServers|TestSweepMany)$", "thousands of lives and files, which take minutes each"},
	"internal/notifyd": {"^TestManyMessages$", "it waits for 200,000 messages, longer than a child may be silent"},
	"watch":            {"^(TestManyOwners|TestReportFlood|TestBindStorm)$", "8,000 processes, a million messages, 100,000 binds, which take minutes each"},
}

// chosen are of packages whose other tests do not depend on the kernel.
var chosen = map[string]string{
	"cmd/sockwatch": "^TestDaemonTracesPrograms$",
}

// converter is the program that reads what test binaries write with -test.v=test2json, built once: beside the guests,
// and with a checkout that changes meanwhile, the go command may be slow or fail.
func converter(scratch string) string { return filepath.Join(scratch, "test2json") }

// buildSuites makes the test binaries: static, and without what only debuggers read.
func buildSuites(ctx context.Context, packages []string, scratch string) ([]suite, error) {
	tool := exec.CommandContext(ctx, "go", "build", "-o", converter(scratch), "cmd/test2json")
	if _, err := output(tool); err != nil {
		return nil, err
	}
	var suites []suite
	for _, pkg := range packages {
		name := strings.TrimPrefix(filepath.Clean(pkg), "./")
		s := suite{name: name, dir: name, binary: filepath.Join(scratch, strings.ReplaceAll(name, "/", "-")+".test")}
		s.only, s.skip, s.why = chosen[name], leftOut[name].skip, leftOut[name].why
		build := exec.CommandContext(ctx, "go", "test", "-c", "-trimpath", "-ldflags=-s -w", "-o", s.binary, "./"+name)
		build.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH=amd64")
		if _, err := output(build); err != nil {
			return nil, fmt.Errorf("building the tests: %w", err)
		}
		if !exists(s.binary) {
			s.binary = "" // go test -c makes no binary without test files
		}
		suites = append(suites, s)
	}
	return suites, nil
}
