package daemon

import (
	"os/exec"
	"slices"
	"testing"

	"github.com/sockwatch/sockwatch/internal/testutil"
	"github.com/sockwatch/sockwatch/pidfd"
	"github.com/sockwatch/sockwatch/watch"
)

// TestGroupsOfSender: of who has sent a report, and not of who has his number by now.
func TestGroupsOfSender(t *testing.T) {
	testutil.Require(t, testutil.Root)
	inGroup := func(group uint32) func(*exec.Cmd) {
		return func(cmd *exec.Cmd) {
			as(hostile)(cmd)
			cmd.SysProcAttr.Credential.Groups = []uint32{group}
		}
	}
	sender, later := startPuppet(t, inGroup(4321)), startPuppet(t, inGroup(4322))
	p, err := pidfd.Open(sender.child.PID())
	must(t, err)
	defer p.Close()
	s := watch.Sender{PID: sender.child.PID(), UID: hostile, GID: hostile, Process: p}
	if groups := groupsOf(s); !slices.Equal(groups, []uint32{4321}) {
		t.Errorf("groups %d", groups)
	}
	must(t, sender.child.Cmd.Process.Kill())
	must(t, p.Wait(t.Context())) // and it is not reaped
	if groups := groupsOf(s); !slices.Equal(groups, []uint32{4321}) {
		t.Errorf("groups %d of a zombie", groups)
	}
	sender.kill()
	s.PID = later.child.PID() // as if that had the number
	if groups := groupsOf(s); groups != nil {
		t.Errorf("groups %d of somebody else", groups)
	}
	s.Process = nil
	if groups := groupsOf(s); groups != nil {
		t.Errorf("groups %d of somebody else", groups)
	}
}
