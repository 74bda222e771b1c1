package records

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/sockwatch/sockwatch/internal/testutil"
)

// helperHold opens a directory and keeps it until it is killed.
func helperHold() {
	s, err := Open(os.Args[1])
	if err != nil {
		fmt.Println(err)
		return
	}
	defer s.Close()
	fmt.Println("open")
	_, _ = os.Stdin.Read(make([]byte, 1))
}

func wantLocked(t *testing.T, dir string, pid int) {
	t.Helper()
	s, err := Open(dir)
	if err == nil {
		s.Close()
	}
	locked := new(LockedError)
	if !errors.As(err, &locked) || locked.PID != pid {
		t.Fatalf("%v, want pid %d", err, pid)
	}
	if msg := err.Error(); !strings.Contains(msg, dir) || pid != 0 && !strings.Contains(msg, strconv.Itoa(pid)) {
		t.Errorf("%q does not name %s and %d", msg, dir, pid)
	}
}

func TestLock(t *testing.T) {
	onBoth(t, func(t *testing.T, dir string) {
		for range 10 {
			child := testutil.Start(t, testutil.Command(t, "hold", dir))
			child.Expect("open")
			wantLocked(t, dir, child.PID())
			child.Kill()
			s := open(t, dir)
			wantLocked(t, dir, os.Getpid())
			must(t, s.Close())
		}
	})
}

// TestLockFile: what the file says decides nothing.
func TestLockFile(t *testing.T) {
	dir := filepath.Join(testutil.TempDir(t), "records")
	for _, stale := range []string{"", "x", "-1\n", "99999999999\n", "1\n", "\xff\n\n", strings.Repeat("1", 100) + "\n"} {
		must(t, open(t, dir).Close())
		must(t, os.WriteFile(filepath.Join(dir, lockName), []byte(stale), 0o600))
		s := open(t, dir)
		wantLocked(t, dir, os.Getpid())
		if stale != "1\n" {
			must(t, os.WriteFile(filepath.Join(dir, lockName), []byte(stale), 0o600))
			wantLocked(t, dir, 0)
		}
		must(t, s.Close())
	}
}
