package sys

import (
	"errors"
	"os"
	"os/exec"
	"testing"

	"golang.org/x/sys/unix"
)

func TestPidfdPeek(t *testing.T) {
	for script, want := range map[string]unix.WaitStatus{
		"exit 0":        0,
		"exit 3":        3 << 8,
		"kill -TERM $$": unix.WaitStatus(unix.SIGTERM),
	} {
		cmd := exec.Command("sh", "-c", script)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		fd, err := PidfdOpen(cmd.Process.Pid)
		if err != nil {
			t.Fatal(err)
		}
		if err := WaitReadable(t.Context(), fd); err != nil {
			t.Fatal(err)
		}
		for range 2 { // it takes nothing away
			if got, ended, err := PidfdPeek(fd); got != want || !ended || err != nil {
				t.Errorf("%q: %#x, %v, %v; want %#x", script, got, ended, err, want)
			}
		}
		_ = cmd.Wait() // tells the same
		if _, ended, err := PidfdPeek(fd); ended || !errors.Is(err, unix.ECHILD) {
			t.Errorf("%q, reaped: %v, %v", script, ended, err)
		}
		if err := Close(fd); err != nil {
			t.Error(err)
		}
	}
}

func TestPidfdPeekOthers(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	if _, ended, err := PidfdPeek(int(r.Fd())); ended || !errors.Is(err, unix.EBADF) {
		t.Errorf("a pipe: %v, %v", ended, err)
	}

	cmd := exec.Command("sh", "-c", "read x")
	cmd.Stdin = r
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		w.Close()
		_ = cmd.Wait()
	}()
	fd, err := PidfdOpen(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = Close(fd) }()
	if _, ended, err := PidfdPeek(fd); ended || err != nil {
		t.Errorf("a living child: %v, %v", ended, err)
	}
}

func TestDuplicate(t *testing.T) {
	fd, err := Duplicate(2)
	if err != nil {
		t.Fatal(err)
	}
	if flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); flags != unix.FD_CLOEXEC || err != nil {
		t.Errorf("descriptor flags %d, %v", flags, err)
	}
	if err := Close(fd); err != nil {
		t.Error(err)
	}
	if _, err := Duplicate(fd); !errors.Is(err, unix.EBADF) {
		t.Errorf("of a closed descriptor: %v", err)
	}
}
