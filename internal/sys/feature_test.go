package sys

import (
	"errors"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestKernelRelease(t *testing.T) {
	want, err := os.ReadFile("/proc/sys/kernel/osrelease")
	if err != nil {
		t.Fatal(err)
	}
	if got, err := KernelRelease(); got != strings.TrimSpace(string(want)) || err != nil {
		t.Errorf("%q, %v; want %q", got, err, want)
	}
}

func TestMaxDescriptors(t *testing.T) {
	soft, hard, err := MaxDescriptors()
	if err != nil || soft == 0 || soft > hard {
		t.Errorf("soft %d, hard %d, %v", soft, hard, err)
	}
}

func TestTryPeerPidfd(t *testing.T) {
	if err := TryPeerPidfd(); err != nil && !errors.Is(err, unix.ENOPROTOOPT) {
		t.Error(err)
	}
}

func TestTrySockFile(t *testing.T) {
	err := TrySockFile()
	if may, capErr := HasCapability(unix.CAP_NET_ADMIN); capErr != nil || may != (err == nil) {
		t.Errorf("%v, with CAP_NET_ADMIN %v (%v)", err, may, capErr)
	}
	if err != nil && !errors.Is(err, unix.EPERM) {
		t.Error(err)
	}
}
