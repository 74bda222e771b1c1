// Package report_test holds the forms of a report that docs/notify.md gives to what they promise: each is a program here,
// which binds, reports and dies.
package report_test

import (
	"errors"
	"net"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/sockwatch/sockwatch/internal/testutil"
	"github.com/sockwatch/sockwatch/notify"
)

// What docs/notify.md shows is what is tested.
func TestDocument(t *testing.T) {
	doc := read(t, "../../docs/notify.md")
	for language, file := range map[string]string{"c": "report.c", "python": "report.py", "sh": "report.sh"} {
		blocks := 0
		for rest := doc; ; blocks++ {
			_, block, found := strings.Cut(rest, "\n```"+language+"\n")
			if !found {
				break
			}
			if block, rest, found = strings.Cut(block, "```\n"); !found {
				t.Fatalf("a block of %s has no end", language)
			}
			if !strings.Contains(read(t, file), block) {
				t.Errorf("%s does not hold this block of docs/notify.md:\n%s", file, block)
			}
		}
		if blocks == 0 {
			t.Errorf("docs/notify.md has no block of %s", language)
		}
	}
}

func read(t *testing.T, file string) string {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestC(t *testing.T) {
	testutil.Require(t, testutil.Program("cc"))
	program := testutil.TempDir(t) + "/report"
	if out, err := exec.Command("cc", "-O2", "-Wall", "-Wextra", "-Werror", "-o", program, "report.c").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	reports(t, program)
}

func TestPython(t *testing.T) {
	testutil.Require(t, testutil.Program("python3"))
	reports(t, "python3", "report.py")
}

// The shell needs sockwatch, and a sockwatch as it is now only its own package has: the test is there.

// reports runs a program that reports and dies, against addresses of both kinds, and without a watcher.
func reports(t *testing.T, program ...string) {
	t.Helper()
	dir := testutil.TempDir(t)
	for name, address := range map[string]string{"path": dir + "/notify", "abstract": "@" + dir, "none": ""} {
		path := dir + "/" + name
		var conn *net.UnixConn
		if address != "" {
			var err error
			if conn, err = net.ListenUnixgram("unixgram", &net.UnixAddr{Name: address, Net: "unixgram"}); err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
		}
		cmd := exec.Command(program[0], append(program[1:], path)...)
		cmd.Env = append(os.Environ(), "SOCKWATCH_NOTIFY="+address)
		if out, err := cmd.CombinedOutput(); err == nil || err.Error() != "signal: killed" {
			t.Fatalf("%s: it ended with %v, and said %q", name, err, out)
		}
		if st, err := os.Lstat(path); err != nil || st.Mode().Type() != os.ModeSocket {
			t.Errorf("%s: the sock-file: %v, %v", name, st, err)
		}
		if conn == nil {
			continue
		}
		message := make([]byte, 1000)
		n, err := conn.Read(message)
		if err != nil {
			t.Fatal(err)
		}
		if got, want := strings.TrimSuffix(string(message[:n]), "\n"), "BIND="+path; got != want {
			t.Errorf("%s: got %q, want %q", name, got, want)
		}
	}

	// A watcher that is gone, and one that does not read, are errors that are told.
	fails(t, dir+"/absent", dir+"/gone", program...)
	full := dir + "/full"
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: full, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	t.Setenv(notify.Variable, full)
	for err == nil {
		err = notify.Send("NAME=n")
	}
	if !errors.Is(err, notify.ErrQueueFull) {
		t.Fatal(err)
	}
	fails(t, full, dir+"/late", program...)
}

func fails(t *testing.T, address, path string, program ...string) {
	t.Helper()
	cmd := exec.Command(program[0], append(program[1:], path)...)
	cmd.Env = append(os.Environ(), "SOCKWATCH_NOTIFY="+address)
	if out, err := cmd.CombinedOutput(); err == nil || err.Error() != "exit status 1" || len(out) == 0 {
		t.Errorf("%s: it ended with %v, and said %q", path, err, out)
	}
}
