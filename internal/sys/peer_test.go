package sys

import (
	"os"
	"slices"
	"testing"

	"golang.org/x/sys/unix"
)

func TestPeer(t *testing.T) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	must(t, err)
	defer unix.Close(pair[0])
	cred, err := PeerCredentials(pair[0])
	must(t, err)
	if int(cred.Pid) != os.Getpid() || int(cred.Uid) != os.Geteuid() || int(cred.Gid) != os.Getegid() {
		t.Errorf("%+v", cred)
	}
	groups, err := PeerGroups(pair[0])
	must(t, err)
	want, err := os.Getgroups()
	must(t, err)
	if len(groups) != len(want) {
		t.Errorf("groups %v, want %v", groups, want)
	}
	for _, g := range want {
		if !slices.Contains(groups, uint32(g)) {
			t.Errorf("groups %v, want %v", groups, want)
		}
	}
	if TryPeerPidfd() == nil {
		fd, err := PeerPidfd(pair[0])
		must(t, err)
		must(t, Close(fd))
	}

	for _, step := range []struct {
		do   func() error
		want bool
	}{
		{func() error { return nil }, false},
		{func() error { return unix.Shutdown(pair[1], unix.SHUT_WR) }, false},
		{func() error { return unix.Close(pair[1]) }, true},
	} {
		must(t, step.do())
		if got, err := HungUp(pair[0]); got != step.want || err != nil {
			t.Errorf("hung up: %v, %v, want %v", got, err, step.want)
		}
	}
}

// TestPassCredentials also shows that descriptors are not received where there is no room for them.
func TestPassCredentials(t *testing.T) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	must(t, err)
	defer unix.Close(pair[0])
	defer unix.Close(pair[1])
	must(t, PassCredentials(pair[0]))
	must(t, unix.Sendmsg(pair[1], []byte("x"), unix.UnixRights(0, 1, 2), nil, 0))
	control := make([]byte, CredentialSpace)
	_, n, flags, err := ReceiveMessage(pair[0], make([]byte, 2), control)
	must(t, err)
	sender, err := ParseSender(control[:n])
	must(t, err)
	if !sender.Known || int(sender.PID) != os.Getpid() || flags&unix.MSG_CTRUNC == 0 {
		t.Errorf("%+v, flags %#x", sender, flags)
	}
}
