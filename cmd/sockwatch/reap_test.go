package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sockwatch/sockwatch/internal/testutil"
	"github.com/sockwatch/sockwatch/reap"
)

func TestProgress(t *testing.T) {
	var stdout, stderr strings.Builder
	s := sweeper{
		app:      &app{stdout: &output{w: &stdout}, stderr: &output{w: &stderr}},
		progress: true,
		counts:   map[reap.Outcome]int{},
	}
	s.tell(reap.Result{Path: "a", Outcome: reap.OutcomeRemoved})
	if want := "\r1 sock-files looked at, 1 removed\x1b[K"; stderr.String() != want {
		t.Errorf("got %q, want %q", stderr.String(), want)
	}
	// It is not shown again at once, and wiped away before something else is said.
	stderr.Reset()
	s.due = time.Now().Add(time.Hour)
	s.tell(reap.Result{Path: "b", Outcome: reap.OutcomeAlive})
	s.tell(reap.Result{Path: "dir", Outcome: reap.OutcomeFailed, Err: &os.PathError{Op: "open directory", Path: "dir", Err: unix.ENOENT}})
	s.clear()
	if want := "\r\x1b[Ksockwatch: open directory dir: no such file or directory\n"; stderr.String() != want {
		t.Errorf("got %q, want %q", stderr.String(), want)
	}
	if want := "removed   a\nalive     b\n"; stdout.String() != want {
		t.Errorf("got %q, want %q", stdout.String(), want)
	}
}

// TestInterruptedSweep: what was removed is told, and the rest is left alone.
func TestInterruptedSweep(t *testing.T) {
	dir := testutil.TempDir(t)
	const files = 1000
	for i := range files {
		path := filepath.Join(dir, fmt.Sprintf("%d.sock", i))
		l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path})
		if err != nil {
			t.Fatal(err)
		}
		l.SetUnlinkOnClose(false)
		l.Close()
	}
	// The sweep waits for us to read what it has printed.
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if _, err := unix.FcntlInt(w.Fd(), unix.F_SETPIPE_SZ, os.Getpagesize()); err != nil {
		t.Fatal(err)
	}
	var stderr strings.Builder
	cmd := exec.Command("sockwatch", "reap", dir)
	cmd.Stdout, cmd.Stderr = w, &stderr
	err = cmd.Start()
	w.Close()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = cmd.Process.Kill() }()
	lines := bufio.NewReader(r)
	if _, err := lines.ReadString('\n'); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Process.Signal(unix.SIGINT); err != nil {
		t.Fatal(err)
	}
	rest, err := io.ReadAll(lines)
	if err != nil {
		t.Fatal(err)
	}
	var exit *exec.ExitError
	if err := cmd.Wait(); !errors.As(err, &exit) || exit.ExitCode() != 130 {
		t.Errorf("got %v, want exit status 130", err)
	}
	removed := 1 + strings.Count(string(rest), "removed ")
	if want := fmt.Sprintf("sockwatch: interrupted: removed %d in %s\n", removed, dir); stderr.String() != want {
		t.Errorf("got %q, want %q", stderr.String(), want)
	}
	left, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	if len(left) != files-removed || len(left) == 0 {
		t.Errorf("%d files are left, %d were removed, of %d", len(left), removed, files)
	}
}
