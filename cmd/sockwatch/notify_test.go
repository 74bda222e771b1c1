package main

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/sockwatch/sockwatch/internal/testutil"
)

// receiver is a program of the scripts that stands for a watcher: it binds a datagram socket, says so by a FIFO, which waits
// until that is read, and prints the next N messages as they are, a line "--" after each.
//
//	receiver ADDRESS FIFO N
func receiver() {
	if err := receiveReports(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "receiver:", err)
		os.Exit(99)
	}
}

func receiveReports(args []string) error {
	if len(args) != 3 {
		return fmt.Errorf("usage: receiver ADDRESS FIFO N")
	}
	count, err := strconv.Atoi(args[2])
	if err != nil {
		return err
	}
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: args[0], Net: "unixgram"})
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := os.WriteFile(args[1], nil, 0); err != nil {
		return err
	}
	message := make([]byte, 64<<10)
	for range count {
		n, err := conn.Read(message)
		if err != nil {
			return err
		}
		fmt.Printf("%s--\n", message[:n])
	}
	return nil
}

// The shell form of docs/notify.md is run here, where there is a sockwatch for it; the others are run by its own package.
func TestNotifyFromShell(t *testing.T) {
	testutil.Require(t, testutil.Program("perl"))
	dir := testutil.TempDir(t)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(self, dir+"/sockwatch"); err != nil { // TestMain goes by the name
		t.Fatal(err)
	}
	script, err := filepath.Abs("../../test/report/report.sh")
	if err != nil {
		t.Fatal(err)
	}
	for _, address := range []string{dir + "/notify", "@" + dir} {
		conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: address, Net: "unixgram"})
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		path := dir + "/s" + strconv.Itoa(len(address))
		cmd := exec.Command("sh", script, path)
		cmd.Env = append(os.Environ(), "PATH="+dir+":"+os.Getenv("PATH"), "SOCKWATCH_NOTIFY="+address)
		out, err := cmd.CombinedOutput()
		if err == nil || err.Error() != "signal: killed" {
			t.Fatalf("it ended with %v, and said %q", err, out)
		}
		message := make([]byte, 1000)
		n, err := conn.Read(message)
		if err != nil {
			t.Fatal(err)
		}
		if got, want := string(message[:n]), fmt.Sprintf("PID=%d\nBIND=%s\n", cmd.Process.Pid, path); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
		if st, err := os.Lstat(path); err != nil || st.Mode().Type() != os.ModeSocket {
			t.Errorf("the sock-file: %v, %v", st, err)
		}
	}
}

func TestReportLine(t *testing.T) {
	wd, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for in, want := range map[string]string{
		"BIND=/a b=c":  "BIND=/a b=c",
		"UNBIND=a/../": "UNBIND=" + wd + "/a/../",
		"NAME=n":       "NAME=n",
		"FUTURE_2=":    "FUTURE_2=",
	} {
		if got, err := reportLine(in); err != nil || got != want {
			t.Errorf("%q: %q, %v", in, got, err)
		}
	}
	for _, in := range []string{
		"", "=", "BIND", "bind=/a", "A B=c", "BIND=", "UNBIND=", "BIND=/a\nPID=1", "X=\n", "PID=1", "NAME=", "NAME=a/b",
		"NAME=" + strings.Repeat("n", 256),
	} {
		if got, err := reportLine(in); err == nil {
			t.Errorf("%q: %q", in, got)
		}
	}
}
