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
		own, err := ThreadCapabilities()
		if err != nil {
			t.Error(err)
		}
		many := make([]uint32, 65536)
		for i := range many {
			many[i] = uint32(i)
		}
		for _, groups := range [][]uint32{{30, 10, 20}, {}, many, {4_000_000_000}} {
			if err := SetThreadGroups(groups); err != nil {
				t.Error(err)
			}
			if got, err := ThreadGroups(); !slices.Equal(got, slices.Sorted(slices.Values(groups))) || err != nil {
				t.Errorf("the groups are %d, want %d (%v)", got, groups, err)
			}
		}
		for what, err := range map[string]error{
			"fsgid": SetThreadFSGID(4_000_000_000), "fsuid": SetThreadFSUID(4_000_000_000),
			"capabilities": SetThreadCapabilities(Capabilities{Permitted: own.Permitted}),
		} {
			if err != nil {
				t.Errorf("%s: %v", what, err)
			}
		}
		if uid, err := FSUID(); uid != 4_000_000_000 || err != nil {
			t.Errorf("user %d, %v", uid, err)
		}
		if gid, err := FSGID(); gid != 4_000_000_000 || err != nil {
			t.Errorf("group %d, %v", gid, err)
		}
		for capability := range 64 {
			if has, err := HasCapability(capability); has || err != nil {
				t.Errorf("capability %d: %v, %v", capability, has, err)
			}
		}
		// There is a way back, for what is permitted,
		if err := SetThreadCapabilities(own); err != nil {
			t.Error(err)
		}
		if now, err := ThreadCapabilities(); now != own || err != nil {
			t.Errorf("the capabilities are %x, want %x (%v)", now, own, err)
		}
		if err := SetThreadCapabilities(Capabilities{}); err != nil {
			t.Error(err)
		}
		// and none else.
		for what, err := range map[string]error{
			"groups": SetThreadGroups(nil), "fsgid": SetThreadFSGID(1), "fsuid": SetThreadFSUID(1), "capabilities": SetThreadCapabilities(own),
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
