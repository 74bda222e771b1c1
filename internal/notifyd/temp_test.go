package notifyd

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sockwatch/sockwatch/internal/testutil"
	"github.com/sockwatch/sockwatch/reap"
)

// temp makes a socket below the directory that is its argument, says where, and waits for the end of its input.
func init() {
	helpers["temp"] = func() {
		r, err := listenBelow(os.Args[1], Options{})
		if err != nil {
			panic(err)
		}
		fmt.Println(r.Path())
		_, _ = os.Stdin.Read(make([]byte, 1))
		_ = r.Close()
	}
}

func leaveDead(t *testing.T, path string) {
	t.Helper()
	s, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	_ = s.Close()
}

func gone(t *testing.T, path string) bool {
	t.Helper()
	_, err := os.Lstat(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	return err != nil
}

func TestListenTemp(t *testing.T) {
	r, err := ListenTemp(Options{Mode: 0o622})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	dir := filepath.Dir(r.Path())
	for path, want := range map[string]fs.FileMode{dir: fs.ModeDir | 0o711, r.Path(): fs.ModeSocket | 0o622} {
		if info, err := os.Lstat(path); err != nil || info.Mode() != want {
			t.Errorf("%s: %v %v", path, info.Mode(), err)
		}
	}
	if _, err := dial(t, r.Path()).Write([]byte("NAME=x")); err != nil {
		t.Fatal(err)
	}
	if report := next(t, r); report.Err != nil || report.Name != "x" {
		t.Errorf("%+v", report)
	}
	if err := r.Close(); err != nil {
		t.Error(err)
	}
	if !gone(t, dir) {
		t.Errorf("%s is still there", dir)
	}
}

func TestListenTempPlaces(t *testing.T) {
	good := testutil.TempDir(t)
	long := filepath.Join(testutil.TempDir(t), strings.Repeat("x", 80))
	file := filepath.Join(good, "file")
	for _, err := range []error{os.Mkdir(long, 0o700), os.WriteFile(file, nil, 0o600)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	bad := []string{long, good + "/missing", file, "relative", "/proc"}
	r, err := listenFirst(append(bad, good, "/never tried"), Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if !strings.HasPrefix(r.Path(), good+"/sockwatch-") {
		t.Errorf("made at %s", r.Path())
	}
	r, err = listenFirst(bad, Options{})
	if err == nil {
		r.Close()
		t.Fatalf("made at %s", r.Path())
	}
	for _, place := range bad {
		if !strings.Contains(err.Error(), fmt.Sprintf("%q", place)) {
			t.Errorf("%s is not in: %v", place, err)
		}
	}
	if entries, err := os.ReadDir(long); err != nil || len(entries) > 0 {
		t.Errorf("%v is left, %v", entries, err)
	}
}

// What a killed process left is cleared, and nothing else.
func TestListenTempClears(t *testing.T) {
	base := testutil.TempDir(t)
	dead := testutil.Start(t, testutil.Command(t, "temp", base))
	live := testutil.Start(t, testutil.Command(t, "temp", base))
	deadPath, livePath := dead.Line(), live.Line()
	dead.Kill()
	if gone(t, deadPath) {
		t.Fatal("it left nothing")
	}

	old := time.Now().Add(-time.Hour)
	mkdir := func(name string, when time.Time) string {
		path := filepath.Join(base, name)
		if err := errors.Join(os.Mkdir(path, 0o700), os.Chtimes(path, when, when)); err != nil {
			t.Fatal(err)
		}
		return path
	}
	empty, young, other := mkdir("sockwatch-empty0000000", old), mkdir("sockwatch-young0000000", time.Now()), mkdir("other", old)
	full := mkdir("sockwatch-full00000000", old)
	// Removing its socket was interrupted after that had been given a private name.
	cut := mkdir("sockwatch-cut000000000", old)
	leaveDead(t, filepath.Join(cut, ".sockwatch-ABCDE"))
	// The user's own, which only look like ours.
	own := mkdir("sockwatch-mine", old)
	ownEmpty, alike := mkdir("sockwatch-emptiness", old), mkdir("sockwatch-alike0000000", old)
	leaveDead(t, filepath.Join(own, ".sockwatch-ABCDE"))
	leaveDead(t, filepath.Join(alike, "agent.sock"))
	<-time.After(reap.LeftoverAge) // younger, and the removal may be at work still
	link, plain := filepath.Join(base, "sockwatch-link00000000"), filepath.Join(base, "sockwatch-plain0000000")
	notSocket := filepath.Join(mkdir("sockwatch-notsocket000", old), "notify")
	if err := errors.Join(
		os.WriteFile(full+"/something", nil, 0o600), os.Chtimes(full, old, old), os.Chtimes(cut, old, old),
		os.Chtimes(own, old, old), os.Chtimes(alike, old, old),
		os.Symlink(other, link), os.WriteFile(plain, nil, 0o600), os.WriteFile(notSocket, nil, 0o600),
	); err != nil {
		t.Fatal(err)
	}
	kept := []string{
		livePath, young, other, full + "/something", link, plain, notSocket,
		ownEmpty, filepath.Join(own, ".sockwatch-ABCDE"), filepath.Join(alike, "agent.sock"),
	}
	if os.Geteuid() == 0 {
		foreign := mkdir("sockwatch-foreign00000", old)
		if err := os.Chown(foreign, 65534, 65534); err != nil {
			t.Fatal(err)
		}
		kept = append(kept, foreign)
	}

	r, err := listenBelow(base, Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	for _, path := range []string{filepath.Dir(deadPath), empty, cut} {
		if !gone(t, path) {
			t.Errorf("%s is still there", path)
		}
	}
	for _, path := range kept {
		if gone(t, path) {
			t.Errorf("%s is gone", path)
		}
	}
	if _, err := dial(t, livePath).Write([]byte("NAME=x")); err != nil {
		t.Errorf("the live one: %v", err)
	}
	live.Hangup()
	if err := live.Cmd.Wait(); err != nil || !gone(t, filepath.Dir(livePath)) {
		t.Errorf("the live one at its end: %v", err)
	}
}

// Many at a time clear the same leftovers and make their own, and nobody takes another's.
func TestListenTempTogether(t *testing.T) {
	base := testutil.TempDir(t)
	errs := make(chan error)
	const many = 8
	for range many {
		go func() {
			var err error
			for range 20 {
				var r *Receiver
				if r, err = listenBelow(base, Options{}); err != nil {
					break
				}
				if err = r.Close(); err != nil {
					break
				}
			}
			errs <- err
		}()
	}
	for range many {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
	if left, err := os.ReadDir(base); err != nil || len(left) > 0 {
		t.Errorf("%v is left, %v", left, err)
	}
}
