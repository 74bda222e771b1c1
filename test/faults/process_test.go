//go:build failpoints

package faults

import (
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/sockwatch/sockwatch/internal/testutil"
	"github.com/sockwatch/sockwatch/notify"
)

func init() {
	helpers["serve"], helpers["leave"] = serveUntilKilled, leave
}

// serveUntilKilled binds the path that is its argument. It ends with its standard input at the latest.
func serveUntilKilled() {
	if err := bindAndKeep(os.Args[1]); err != nil {
		panic(err)
	}
	fmt.Println("ready")
	_, _ = io.Copy(io.Discard, os.Stdin)
}

// leave binds its arguments, reports the first, and ends.
func leave() {
	for i, path := range os.Args[1:] {
		err := bindAndKeep(path)
		if err == nil && i == 0 {
			_ = notify.Bound(path) // the receiver may be what has failed
		}
		if err != nil {
			panic(err)
		}
	}
}

// bindAndKeep binds a socket whose file stays, as after SIGKILL.
func bindAndKeep(path string) error {
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err == nil {
		listener.SetUnlinkOnClose(false)
		left = append(left, listener)
	}
	return err
}

// left keeps the sockets open until the process ends.
var left []net.Listener

// TestKill has a hard kill disturbed at each of its points. It may be that the process lives on: then its file is there.
func TestKill(t *testing.T) {
	t.Parallel()
	disturb(t, func(t *testing.T, s *scene, faults string, errno unix.Errno) ended {
		s.bind("other.sock")
		server := testutil.Start(t, testutil.Command(t, "serve", s.path("a.sock")))
		server.Expect("ready")
		ino := s.inode("a.sock")
		e := sockwatch(t, faults, "kill", "--kill-after", "0", fmt.Sprint(server.PID()))
		lives := !hasEnded(server)
		now := s.look(e)
		switch is := slices.Contains(now.left, "a.sock"); {
		case lives && (!is || s.inode("a.sock") != ino):
			t.Errorf("the file of the process is gone, which lives\n%s", e)
		case !e.killed && errno != 0 && (lives || len(now.left) > 0):
			if e.status == 0 || !strings.Contains(e.stdout+e.stderr, errno.Error()) {
				t.Errorf("it was left, and not told why (it lives: %v)\n%s", lives, e)
			}
		}
		server.Kill()
		return e
	})
}

// hasEnded tells whether a child is gone. It stays to be waited for.
func hasEnded(c *testutil.Child) bool {
	var info unix.Siginfo
	err := unix.Waitid(unix.P_PID, c.PID(), &info, unix.WEXITED|unix.WNOHANG|unix.WNOWAIT, nil)
	return err == nil && info.Signo != 0
}

// TestRun has run disturbed at each of its points. The command comes to its end whatever happens; what it leaves is for a sweep, at worst.
func TestRun(t *testing.T) {
	t.Parallel()
	disturb(t, func(t *testing.T, s *scene, faults string, errno unix.Errno) ended {
		s.bind("other.sock")
		space := s.path("space")
		s.must(os.Mkdir(space, 0o700))
		paths := []string{s.path("reported.sock"), s.path("named.sock"), filepath.Join(space, "seen.sock")}
		leaver := testutil.Command(t, "leave")
		cmd := command(t, faults, append([]string{"run", "--bind", paths[1], "--bindspace", space, "--", leaver.Path}, paths...)...)
		cmd.Env = append(cmd.Env, leaver.Env[len(leaver.Env)-1])
		e := finish(t, cmd)
		left := s.look(e).left
		// What was only seen in a bindspace may be taken for gone again by an error, and left to the sweep without a word.
		left = slices.DeleteFunc(left, func(name string) bool { return name == "space/seen.sock" })
		if errno != 0 && len(left) > 0 && !strings.Contains(e.stderr, errno.Error()) {
			t.Errorf("%v was left, and not told why\n%s", left, e)
		}
		return e
	})
}

// disturb has something done with a fault at each point, and what is left swept.
func disturb(t *testing.T, do func(t *testing.T, s *scene, faults string, errno unix.Errno) ended) {
	t.Helper()
	build(t)
	t.Run("killed", func(t *testing.T) {
		t.Parallel()
		disturbBy(t, do, func(int) unix.Errno { return 0 })
	})
	if !all {
		t.Run("in turn", func(t *testing.T) {
			t.Parallel()
			disturbBy(t, do, func(n int) unix.Errno { return errnos[n%len(errnos)] })
		})
		return
	}
	for _, errno := range errnos {
		t.Run(unix.ErrnoName(errno), func(t *testing.T) {
			t.Parallel()
			disturbBy(t, do, func(int) unix.Errno { return errno })
		})
	}
}

// disturbBy is disturb with the error that there is for the nth point; 0 kills.
func disturbBy(t *testing.T, do func(t *testing.T, s *scene, faults string, errno unix.Errno) ended, errno func(n int) unix.Errno) {
	t.Helper()
	var scenes []*scene
	defer func() {
		for _, s := range scenes {
			s.close()
		}
	}()
	for fired := true; fired; {
		s := newScene(t, "")
		scenes = append(scenes, s)
		n := len(scenes)
		fault := "kill"
		if errno(n) != 0 {
			fault = unix.ErrnoName(errno(n))
		}
		fired = do(t, s, fmt.Sprintf("*:%d=%s", n, fault), errno(n)).fired()
	}
	settle(t, scenes)
	t.Logf("at each of %d points", len(scenes)-1)
}
