package pidfd

import (
	"os"
	"testing"

	"github.com/sockwatch/sockwatch/internal/testutil"
)

func TestInfo(t *testing.T) {
	// The name of a process is whatever it likes.
	const comm = "a) R 1\n:(\xff\\"
	child := testutil.Start(t, testutil.Command(t, "idle", comm))
	child.Expect("ready")
	p := open(t, child.PID())
	want := Info{
		PID: child.PID(), PPID: os.Getpid(),
		UID: uint32(os.Getuid()), EUID: uint32(os.Geteuid()), GID: uint32(os.Getgid()),
		Comm: comm,
	}
	if got, err := p.Info(); got != want || err != nil {
		t.Errorf("got %+v, %v; want %+v", got, err, want)
	}
	kill(t, p)
	if got, err := p.Info(); got != want || err != nil {
		t.Errorf("zombie: got %+v, %v; want %+v", got, err, want)
	}
	child.Kill()
	_, err := p.Info()
	wantErr(t, err, ErrExited)
}

func TestInfoEffective(t *testing.T) {
	testutil.Require(t, testutil.Root)
	child := testutil.Start(t, testutil.Command(t, "euid", "65533"))
	child.Expect("ready")
	info, err := open(t, child.PID()).Info()
	if info.UID != 0 || info.EUID != 65533 || err != nil {
		t.Errorf("info %+v, %v", info, err)
	}
}

// TestInfoWays: PIDFD_GET_INFO and /proc say the same.
func TestInfoWays(t *testing.T) {
	for _, pid := range []int{os.Getpid(), idle(t).PID()} {
		p := open(t, pid)
		info, err := p.Info()
		if err != nil {
			t.Fatal(err)
		}
		fromProc, err := p.infoFromProc(int(p.Fd()))
		if fromProc != info || err != nil {
			t.Errorf("process %d: %+v, and of /proc %+v, %v", pid, info, fromProc, err)
		}
	}
}
