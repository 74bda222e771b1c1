package proc

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"testing"

	"golang.org/x/sys/unix"
)

func TestExiting(t *testing.T) {
	if exiting, err := FS("").Exiting(os.Getpid()); exiting || err != nil {
		t.Errorf("of ourselves: %v, %v", exiting, err)
	}
	cmd := exec.Command("/bin/true")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if err := unix.Waitid(unix.P_PID, cmd.Process.Pid, nil, unix.WEXITED|unix.WNOWAIT, nil); err != nil {
		t.Fatal(err)
	}
	if exiting, err := FS("").Exiting(cmd.Process.Pid); !exiting || err != nil {
		t.Errorf("of a zombie: %v, %v", exiting, err)
	}
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	if _, err := FS(t.TempDir()).Exiting(1); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("of nobody: %v", err)
	}
}

func TestParseExiting(t *testing.T) {
	for line, want := range map[string]bool{
		"1 (a) R 1 1 1 0 -1 4194304 0":            false,
		"1 (a) R 1 1 1 0 -1 4194308 0":            true,
		"1 (a) S 1 1 1 0 -1 4 (b) S 1 1 1 0 -1 0": false, // the name is what is between the first and the last parenthesis
		"1 ()) Z 1 1 1 0 -1 4228108 0":            true,
	} {
		if got, err := parseExiting([]byte(line)); got != want || err != nil {
			t.Errorf("%q: %v, %v", line, got, err)
		}
	}
	for _, line := range []string{"", "1 (a)", "1 (a) R 1 1 1 0 -1", "1 (a) R 1 1 1 0 -1 x 0"} {
		if _, err := parseExiting([]byte(line)); err == nil {
			t.Errorf("%q is accepted", line)
		}
	}
}
