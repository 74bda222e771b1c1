package sys

import (
	"errors"
	"runtime"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/sockwatch/sockwatch/internal/testutil"
)

// onOwnThread runs f on a thread that ends with it.
func onOwnThread(f func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // never unlocked
		if unix.Gettid() != unix.Getpid() {
			f()
			return
		}
		onOwnThread(f) // the first thread is taken by us, and cannot end
		runtime.UnlockOSThread()
	}()
	<-done
}

func TestThreadCredentials(t *testing.T) {
	testutil.Require(t, testutil.Root)
	before, err := ThreadGroups()
	if err != nil {
		t.Fatal(err)
	}
	onOwnThread(func() {
		for _, groups := range [][]uint32{{30, 10, 20}, {}, {4_000_000_000}} {
			if err := SetThreadGroups(groups); err != nil {
				t.Error(err)
			}
			if got, err := ThreadGroups(); !slices.Equal(got, slices.Sorted(slices.Values(groups))) || err != nil {
				t.Errorf("the groups are %d, want %d (%v)", got, groups, err)
			}
		}
		for what, err := range map[string]error{
			"fsgid": SetThreadFSGID(4_000_000_000), "fsuid": SetThreadFSUID(4_000_000_000), "capabilities": DropThreadCapabilities(),
		} {
			if err != nil {
				t.Errorf("%s: %v", what, err)
			}
		}
		uid, err := FSUID()
		if uid != 4_000_000_000 || err != nil {
			t.Errorf("user %d, %v", uid, err)
		}
		for capability := range 64 {
			if has, err := HasCapability(capability); has || err != nil {
				t.Errorf("capability %d: %v, %v", capability, has, err)
			}
		}
		// And there is no way back.
		for what, err := range map[string]error{
			"groups": SetThreadGroups(nil), "fsgid": SetThreadFSGID(1), "fsuid": SetThreadFSUID(1),
		} {
			if !errors.Is(err, unix.EPERM) {
				t.Errorf("%s: %v, want %v", what, err, unix.EPERM)
			}
		}
	})
	if uid, err := FSUID(); uid != 0 || err != nil {
		t.Errorf("user %d, %v", uid, err)
	}
	if after, err := ThreadGroups(); !slices.Equal(after, before) || err != nil {
		t.Errorf("the groups are %d, want %d (%v)", after, before, err)
	}
}

// TestThreadCredentialsRefused: -1 is the id by which the kernel is asked and not told.
func TestThreadCredentialsRefused(t *testing.T) {
	onOwnThread(func() {
		for what, err := range map[string]error{"fsgid": SetThreadFSGID(1<<32 - 1), "fsuid": SetThreadFSUID(1<<32 - 1)} {
			if !errors.Is(err, unix.EPERM) {
				t.Errorf("%s: %v, want %v", what, err, unix.EPERM)
			}
		}
	})
}
