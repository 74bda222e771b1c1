package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/sockwatch/sockwatch/internal/testutil"
)

// pythonsTests are the tests of Python itself. They are named by no program.
var pythonsTests = testutil.Tried("programs", func() error {
	return exec.Command("python3", "-c", "import test.test_socket, test.test_asyncio").Run()
})

// allOfPython has the whole of the two test suites run, and not only what has to do with such sockets, which takes minutes.
var allOfPython = os.Getenv("SOCKWATCH_TEST_STRANGERS") == "all"

// TestTraceStrangers: of a test suite that nobody here wrote, what strace sees to be bound is what is traced, and no more.
func TestTraceStrangers(t *testing.T) {
	testutil.Require(t, testutil.BPF, testutil.Program("strace"), testutil.Program("python3"), pythonsTests)
	dir := testutil.TempDir(t)
	work, seen := filepath.Join(dir, "w"), filepath.Join(dir, "strace")
	must(t, os.Mkdir(work, 0o700))
	must(t, os.Mkdir(seen, 0o700))

	traced := filepath.Join(dir, "traced")
	trace := exec.Command("sh", "-c", `exec sockwatch trace --hooks tracepoint --json --path "$1/**" 2>&1 >"$2"`, "sh", work, traced)
	tracer := testutil.Start(t, trace)
	tracer.Expect("sockwatch: tracing by tracepoint; Ctrl-C ends it")

	// A file for each thread, lest a line is torn by another one's; all of a string in hexadecimal.
	args := []string{
		"-ff", "-qq", "-xx", "-e", "trace=bind", "-e", "signal=none", "-o", filepath.Join(seen, "s"),
		"python3", "-m", "test", "--tempdir", work, "test_socket", "test_asyncio",
	}
	if allOfPython {
		args = append(args, "-i", "*VSOCK*") // these wait for ever where there is half of it
	} else {
		args = append(args, "-m", "*Unix*", "-m", "*unix*")
	}
	suite := exec.Command("strace", args...)
	suite.Env = append(os.Environ(), "TMPDIR="+work)
	if out, err := suite.CombinedOutput(); err != nil { // what fails there is none of our business
		t.Logf("%v: %s", err, out)
	}
	must(t, trace.Process.Signal(unix.SIGINT))
	must(t, trace.Wait())

	want, got := straced(t, seen), tracedBinds(t, traced)
	if len(want) < 20 {
		t.Errorf("strace has seen %d binds: the tests have not run", len(want))
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("what strace saw (-) and what is traced (+):\n%s", diff)
	}
	t.Logf("%d binds", len(want))
}

var straceLine = regexp.MustCompile(`^bind\(\d+, \{sa_family=AF_UNIX, sun_path="((?:\\x..)+)"\}, \d+\) += 0$`)

// straced are the names of the files that strace saw to be bound.
func straced(t *testing.T, dir string) (names []string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	must(t, err)
	for _, entry := range entries {
		b, err := os.ReadFile(filepath.Join(dir, entry.Name()))
		must(t, err)
		for line := range strings.Lines(string(b)) {
			if m := straceLine.FindStringSubmatch(strings.TrimSpace(line)); m != nil {
				name, err := strconv.Unquote(`"` + m[1] + `"`)
				must(t, err)
				names = append(names, name)
			}
		}
	}
	slices.Sort(names)
	return names
}

// tracedBinds are the names that were bound, as trace told them.
func tracedBinds(t *testing.T, file string) (names []string) {
	t.Helper()
	b, err := os.ReadFile(file)
	must(t, err)
	for lines := bufio.NewScanner(bytes.NewReader(b)); lines.Scan(); {
		var line struct {
			Type string
			Raw  string `json:"raw_path"`
			B64  []byte `json:"raw_path_b64"`
		}
		must(t, json.Unmarshal(lines.Bytes(), &line))
		switch {
		case line.Type != "bind":
		case line.B64 != nil:
			names = append(names, string(line.B64))
		default:
			names = append(names, line.Raw)
		}
	}
	slices.Sort(names)
	return names
}
