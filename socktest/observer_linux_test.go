package socktest

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/sockwatch/sockwatch/internal/testutil"
	"github.com/sockwatch/sockwatch/pidfd"
	"github.com/sockwatch/sockwatch/reap"
)

// toldApart is that the kernel tells what this process has made from what others have.
var toldApart = testutil.Tried("ownfanotify", func() error {
	s, err := newSource(false)
	if err != nil {
		return err
	}
	defer s.close()
	_, err = s.mark(os.TempDir())
	return err
})

// scene is a directory that is not the tests' own, with an observer.
type scene struct {
	*testing.T
	*observer
	dir string
}

// scenes runs a test with each of the two ways to see names appear.
func scenes(t *testing.T, test func(*scene)) {
	t.Helper()
	for name, inotifyOnly := range map[string]bool{"Fanotify": false, "Inotify": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := testutil.TempDir(t)
			o, err := observe(config{dirs: []string{dir}, inotifyOnly: inotifyOnly})
			if err != nil {
				t.Fatal(err)
			}
			o.patience = reap.Ladder[:] // nobody is about to remove anything
			test(&scene{t, o, dir})
		})
	}
}

// sync returns when all that has happened was looked at.
func (s *scene) sync() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.catchUp()
}

// exact tells whether what this process does itself is told apart.
func (s *scene) exact() bool { return s.source.fanotify >= 0 }

// leaves fails unless these are left behind, in the order of their paths.
func (s *scene) leaves(want ...string) (notes []string) {
	s.Helper()
	leaks, notes := s.finish()
	if len(leaks) != len(want) {
		s.Fatalf("left behind are %q, want %q; %q", leaks, want, notes)
	}
	for i := range want {
		if !strings.HasPrefix(leaks[i], s.dir+"/") || !strings.Contains(leaks[i], want[i]) {
			s.Errorf("left behind is %q, want %q", leaks[i], want[i])
		}
	}
	return notes
}

func TestBoundBySelf(t *testing.T) {
	t.Parallel()
	scenes(t, func(s *scene) {
		l, err := bind(s.dir + "/s")
		if err != nil {
			s.Fatal(err)
		}
		if !s.exact() {
			s.sync()
		}
		closed(l)
		s.leaves("bound by the test process itself, which has closed it)")
	})
}

func TestBoundByChild(t *testing.T) {
	t.Parallel()
	for end, fate := range map[string]string{"kill": "killed by SIGKILL)", "exit": "which has ended with exit status 3)"} {
		t.Run(end, func(t *testing.T) {
			scenes(t, func(s *scene) {
				c := child(s.T)
				tell(c, "bind "+s.dir+"/s")
				ino := strings.TrimSuffix(strings.TrimPrefix(inode(s.T, s.dir+"/s"), "(inode "), ",")
				s.sync()
				if end == "kill" {
					c.Kill()
				} else {
					c.Say(end)
					_ = c.Cmd.Wait()
				}
				leaks, notes := s.finish()
				if len(leaks) != 1 || len(notes) > 0 || !strings.Contains(leaks[0], fmt.Sprintf("/s (inode %s, bound by process %d (", ino, c.PID())) {
					s.Fatalf("left behind are %q; %q", leaks, notes)
				}
				if !strings.HasSuffix(leaks[0], fate) && !strings.HasSuffix(leaks[0], pidfd.ReasonNotKept+")") {
					s.Errorf("left behind is %q, want %q", leaks[0], fate)
				}
			})
		})
	}
}

func TestClosedByChildThatRuns(t *testing.T) {
	t.Parallel()
	scenes(t, func(s *scene) {
		c := child(s.T)
		tell(c, "bind "+s.dir+"/s")
		s.sync()
		tell(c, "close")
		s.leaves(fmt.Sprintf("bound by process %d (", c.PID()))
	})
}

// A descendant of a child that has died.
func TestBoundByGrandchild(t *testing.T) {
	t.Parallel()
	scenes(t, func(s *scene) {
		cmd := testutil.Command(s.T, "puppet")
		cmd.Args = append([]string{"sh", "-c", `"$@"; exit 0`, "sh", cmd.Path}, cmd.Args[1:]...)
		cmd.Path = "/bin/sh"
		c := testutil.Start(s.T, cmd)
		tell(c, "bind "+s.dir+"/s")
		s.sync()
		c.Say("exit")
		_ = cmd.Wait()
		s.leaves("bound by process ")
	})
}

// The tests of another package leave a file behind, in the same directory and at the same time.
func TestBoundByStranger(t *testing.T) {
	t.Parallel()
	scenes(t, func(s *scene) {
		other := stranger(s.T)
		tell(other, "bind "+s.dir+"/other")
		s.sync()
		own := child(s.T)
		tell(own, "bind "+s.dir+"/own")
		s.sync()
		tell(other, "close")
		other.Hangup()
		own.Kill()
		if notes := s.leaves("/own "); len(notes) > 0 {
			s.Errorf("it says %q", notes)
		}
	})
}

// So it does, and nobody has looked in time: it is named, and nobody blamed.
func TestBoundByNobodyKnown(t *testing.T) {
	t.Parallel()
	scenes(t, func(s *scene) {
		other := stranger(s.T)
		s.mu.Lock()
		tell(other, "bind "+s.dir+"/s", "close")
		s.mu.Unlock()
		notes := s.leaves()
		if s.exact() && os.Geteuid() == 0 { // the kernel has told who it was
			return
		}
		if len(notes) != 1 || !strings.Contains(notes[0], s.dir+"/s (inode ") || !strings.Contains(notes[0], "it was not seen who bound it)") {
			s.Errorf("it says %q", notes)
		}
	})
}

// ssh binds a temporary name, links the final one and removes the first.
func TestLinkedAndRenamed(t *testing.T) {
	t.Parallel()
	scenes(t, func(s *scene) {
		l, err := bind(s.dir + "/first")
		if err != nil {
			s.Fatal(err)
		}
		s.sync()
		if err := os.Link(s.dir+"/first", s.dir+"/second"); err != nil {
			s.Fatal(err)
		}
		if err := os.Remove(s.dir + "/first"); err != nil {
			s.Fatal(err)
		}
		s.sync()
		if err := os.Rename(s.dir+"/second", s.dir+"/third"); err != nil {
			s.Fatal(err)
		}
		closed(l)
		s.leaves(s.dir + "/third ")
	})
}

// Directories in directories, made faster than they can be watched.
func TestNewDirectories(t *testing.T) {
	t.Parallel()
	scenes(t, func(s *scene) {
		s.mu.Lock()
		for _, dir := range []string{"/a", "/a/b", "/a/b/c"} {
			if err := os.Mkdir(s.dir+dir, 0o700); err != nil {
				s.Fatal(err)
			}
			l, err := bind(s.dir + dir + "/s")
			if err != nil {
				s.Fatal(err)
			}
			defer l.Close()
		}
		s.mu.Unlock()
		s.sync()
		seen := 0
		for _, f := range s.seen {
			seen++
			if f.binder != binderSelf {
				s.Errorf("%s: not our own", f)
			}
		}
		if seen != 2 { // c is below
			s.Errorf("%d are seen, want 2", seen)
		}
		s.leaves()
	})
}

// What the kernel has lost is found in the directories.
func TestLost(t *testing.T) {
	t.Parallel()
	scenes(t, func(s *scene) {
		l, err := bind(s.dir + "/s")
		if err != nil {
			s.Fatal(err)
		}
		s.mu.Lock()
		for id, f := range s.seen {
			f.close()
			delete(s.seen, id)
		}
		_, _, _ = s.source.read()
		s.since = s.since.Add(-time.Second) // the file was made in the same tick
		for _, d := range s.source.all() {
			s.list(d, presentBefore)
		}
		s.mu.Unlock()
		closed(l)
		s.leaves("/s ")
	})
}
