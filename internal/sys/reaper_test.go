package sys

import (
	"errors"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestAdoption: an orphan is given to the subreaper, which sees its end and reaps it.
func TestAdoption(t *testing.T) {
	if err := BecomeSubreaper(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0); err != nil {
			t.Error(err)
		}
	}()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	cmd := exec.Command("sh", "-c", "{ read x; exit 7; } <&3 >/dev/null 2>&1 & echo $!")
	cmd.ExtraFiles = []*os.File{r}
	said, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	orphan, err := strconv.Atoi(strings.TrimSpace(string(said)))
	if err != nil {
		t.Fatal(err)
	}
	fd, err := PidfdOpen(orphan)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = Close(fd) }()
	if _, ended, err := PidfdPeek(fd); ended || err != nil {
		t.Errorf("the orphan is no child: %v, %v", ended, err)
	}
	if pid, err := PeekEnded(); pid == orphan || err != nil {
		t.Errorf("alive: %d, %v", pid, err)
	}
	if err := PidfdReap(fd); err != nil { // it waits for nobody
		t.Errorf("alive: %v", err)
	}

	if _, err := io.WriteString(w, "end\n"); err != nil {
		t.Fatal(err)
	}
	if err := WaitReadable(t.Context(), fd); err != nil {
		t.Fatal(err)
	}
	for range 2 { // it takes nothing away
		if pid, err := PeekEnded(); pid != orphan || err != nil {
			t.Errorf("ended: %d, %v; want %d", pid, err, orphan)
		}
	}
	if err := PidfdReap(fd); err != nil {
		t.Error(err)
	}
	if err := PidfdReap(fd); !errors.Is(err, unix.ECHILD) {
		t.Errorf("reaped: %v", err)
	}
	if pid, err := PeekEnded(); pid == orphan || err != nil && !errors.Is(err, unix.ECHILD) {
		t.Errorf("reaped: %d, %v", pid, err)
	}
}

// TestKillAll goes no further than to be refused: nobody but an init may do that.
func TestKillAll(t *testing.T) {
	if err := KillAll(0); !errors.Is(err, unix.EPERM) {
		t.Error(err)
	}
}
