package proc

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"testing"

	"github.com/sockwatch/sockwatch/internal/testutil"
)

func TestSameRoot(t *testing.T) {
	same, err := FS("").SameRoot(os.Getpid())
	if err != nil || !same {
		t.Errorf("of ourselves: %v, %v", same, err)
	}
	cmd := exec.Command("true")
	must(t, cmd.Run())
	if _, err := FS("").SameRoot(cmd.Process.Pid); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("of a process that is gone: %v", err)
	}
}

func TestSameRootElsewhere(t *testing.T) {
	testutil.Require(t, testutil.UserNS, testutil.Program("unshare"))
	other := testutil.Start(t, exec.Command("unshare", "--user", "--map-root-user", "--mount", "sh", "-c", "echo ready; read x"))
	other.Expect("ready")
	same, err := FS("").SameRoot(other.PID())
	if err != nil || same {
		t.Errorf("in a mount namespace of its own: %v, %v", same, err)
	}
	other.Hangup()
}
