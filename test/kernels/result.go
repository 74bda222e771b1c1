package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"regexp"
	"strings"
	"time"
)

// result is what became of a package's tests on a kernel.
type result struct {
	suite
	status string // of the test binary, "" when it did not end
	took   time.Duration
	tests  []*test
	output string // what no test said
}

// test is one that has no subtests, or has an outcome of its own.
type test struct {
	name    string
	action  string // pass, fail, skip, "" for one that did not end
	elapsed float64
	output  strings.Builder
	parent  bool // its subtests count, not it
}

// read takes the results from what a test binary wrote with -test.v=test2json.
func (r *result) read(said []byte, converter string) error {
	convert := exec.Command(converter, "-t") // without it there are no durations
	convert.Stdin = bytes.NewReader(said)
	events, err := output(convert)
	if err != nil {
		return err
	}
	byName := map[string]*test{}
	var outside strings.Builder
	for d := json.NewDecoder(strings.NewReader(events)); ; {
		var event struct {
			Action, Test, Output string
			Elapsed              float64
		}
		if err := d.Decode(&event); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return fmt.Errorf("output of the tests of %s: %w", r.name, err)
		}
		if event.Test == "" {
			outside.WriteString(event.Output)
			continue
		}
		t := byName[event.Test]
		if t == nil {
			t = &test{name: event.Test}
			byName[event.Test] = t
			r.tests = append(r.tests, t)
			if slash := strings.LastIndexByte(event.Test, '/'); slash > 0 {
				if above := byName[event.Test[:slash]]; above != nil {
					above.parent = true
				}
			}
		}
		switch event.Action {
		case "output":
			t.output.WriteString(event.Output)
		case "pass", "fail", "skip":
			t.action, t.elapsed = event.Action, event.Elapsed
		}
	}
	r.output = outside.String()
	return nil
}

// of lists the tests with this outcome; a test with subtests only when it did not pass.
func (r result) of(action string) []*test {
	var tests []*test
	for _, t := range r.tests {
		if t.action == action && (!t.parent || action != "pass") {
			tests = append(tests, t)
		}
	}
	return tests
}

// bad lists what failed or did not end.
func (r result) bad() []*test { return append(r.of("fail"), r.of("")...) }

// ran tells whether there is anything to tell.
func (r result) ran() bool { return r.status != "" || len(r.tests) > 0 }

func (r result) failed() bool {
	return r.binary != "" && (r.status != "0" || len(r.bad()) > 0)
}

func (r result) String() string {
	switch {
	case r.binary == "":
		return r.name + ": no tests"
	case !r.ran():
		return r.name + ": not run"
	}
	said := fmt.Sprintf("%s: %d passed, %d failed, %d skipped, %.0f s", r.name, len(r.of("pass")), len(r.bad()), len(r.of("skip")), r.took.Seconds())
	if r.failed() && len(r.bad()) == 0 {
		said += ", exit status " + r.status
	}
	return said
}

var place = regexp.MustCompile(`^\w+\.go:\d+: `)

// reason is the last thing that a skipped test said.
func (t *test) reason() string {
	reason := "no reason"
	for line := range strings.Lines(t.output.String()) {
		line = strings.TrimSpace(line)
		if line != "" && !strings.HasPrefix(line, "=== ") && !strings.HasPrefix(line, "--- ") {
			reason = place.ReplaceAllString(line, "")
		}
	}
	return reason
}
