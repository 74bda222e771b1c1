//go:build failpoints

package faults

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sockwatch/sockwatch/internal/testutil"
	"github.com/sockwatch/sockwatch/reap"
)

// scene is a directory of sock-files, for one run with a fault.
type scene struct {
	t    testing.TB
	dir  string
	live []*living
	dead []string // names that are to be gone in the end
	kept []string // of dead files that are to stay, whatever happens
}

// living is a live socket with its file.
type living struct {
	name     string // in the directory of its scene, and what it was bound by
	ino      uint64
	listener *net.UnixListener
}

// newScene makes one in a directory of the program's, or anywhere.
func newScene(t testing.TB, in string) *scene {
	t.Helper()
	s := &scene{t: t}
	if in == "" {
		s.dir = testutil.TempDir(t)
		return s
	}
	parent := filepath.Join(builtIn, in)
	s.must(os.MkdirAll(parent, 0o700))
	var err error
	s.dir, err = os.MkdirTemp(parent, "sw")
	s.must(err)
	return s
}

func (s *scene) path(name string) string { return filepath.Join(s.dir, name) }

func (s *scene) must(err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatal(err)
	}
}

// bind makes a live one.
func (s *scene) bind(name string) {
	s.t.Helper()
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: s.path(name), Net: "unix"})
	s.must(err)
	listener.SetUnlinkOnClose(false)
	s.live = append(s.live, &living{name: name, ino: s.inode(name), listener: listener})
}

// kill makes a dead one.
func (s *scene) kill(name string) {
	s.t.Helper()
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: s.path(name), Net: "unix"})
	s.must(err)
	listener.SetUnlinkOnClose(false)
	s.must(listener.Close())
	s.dead = append(s.dead, name)
}

// hide gives a file the name that one has which is being removed.
func (s *scene) hide(name, private string) { s.must(os.Rename(s.path(name), s.path(private))) }

func (s *scene) inode(name string) uint64 {
	var st unix.Stat_t
	s.must(unix.Lstat(s.path(name), &st))
	return st.Ino
}

// close ends the servers.
func (s *scene) close() {
	for _, l := range s.live {
		_ = l.listener.Close()
	}
}

// entries are the names of all files that are no directories, below the directory, each with its inode.
func (s *scene) entries() map[string]uint64 {
	s.t.Helper()
	names := map[string]uint64{}
	s.must(filepath.WalkDir(s.dir, func(path string, e os.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		name, err := filepath.Rel(s.dir, path)
		if err == nil {
			names[name] = s.inode(name)
		}
		return err
	}))
	return names
}

// reached tells whether the server can be connected to by this name. What it is sent it hears, so that it is this one and no other.
func (s *scene) reached(l *living, name string) bool {
	client, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: s.path(name), Net: "unix"})
	if err != nil {
		return false
	}
	defer client.Close()
	s.must(l.listener.SetDeadline(time.Now().Add(patience)))
	conn, err := l.listener.AcceptUnix()
	s.must(err)
	return conn.Close() == nil
}

// state is what became of the files.
type state struct {
	displaced []string // live, and under a private name
	left      []string // dead, and still there
	private   []string
}

// look finds out what became of the files. No live file may be gone: each can be reached by its name, or is under a private one, by which
// it can be reached as well.
func (s *scene) look(e ended) state {
	s.t.Helper()
	var now state
	names := s.entries()
	for name := range names {
		if reap.IsPrivate(filepath.Base(name)) {
			now.private = append(now.private, name)
		}
	}
	owner := map[string]bool{}
	for _, l := range s.live {
		at := ""
		for name, ino := range names {
			if ino == l.ino && (at == "" || name == l.name) {
				at = name
			}
			owner[name] = owner[name] || ino == l.ino
		}
		switch {
		case at == "":
			s.t.Errorf("the file of the live %s is gone: %v\n%s", l.name, names, e)
		case at != l.name && !reap.IsPrivate(filepath.Base(at)):
			s.t.Errorf("the live %s is called %s\n%s", l.name, at, e)
		case !s.reached(l, at):
			s.t.Errorf("the live %s cannot be reached by %s\n%s", l.name, at, e)
		case at != l.name:
			now.displaced = append(now.displaced, l.name)
		}
	}
	for _, name := range s.kept {
		if names[name] == 0 {
			s.t.Errorf("%s is gone, and was to be kept: %v\n%s", name, names, e)
		}
		owner[name] = true
	}
	for name := range names {
		if !owner[name] {
			now.left = append(now.left, name)
		}
	}
	return now
}

// told checks that nothing was passed over in silence after an error.
func (s *scene) told(e ended, now state, errno unix.Errno) {
	s.t.Helper()
	said := e.stdout + e.stderr
	if len(now.left)+len(now.displaced)+len(s.kept) > 0 && e.status == 0 {
		s.t.Errorf("exit status 0, and %v was left, %v displaced\n%s", now.left, now.displaced, e)
	}
	if e.status == 0 || len(s.kept) > 0 && len(now.left)+len(now.displaced) == 0 {
		return
	}
	if !strings.Contains(said, errno.Error()) {
		s.t.Errorf("it does not say %q\n%s", errno, e)
	}
	if !strings.Contains(said, s.dir) {
		s.t.Errorf("it does not say where\n%s", e)
	}
}

// settled tells whether all is as it is to be in the end.
func (s *scene) settled(e ended) bool {
	s.t.Helper()
	now := s.look(e)
	return len(now.displaced)+len(now.left)+len(now.private) == 0
}

// age waits until what has a private name in the scenes is old enough for being settled. Nothing but time makes it so.
func age(scenes []*scene) {
	var youngest time.Time
	for _, s := range scenes {
		for name := range s.entries() {
			var st unix.Stat_t
			if !reap.IsPrivate(filepath.Base(name)) || unix.Lstat(s.path(name), &st) != nil {
				continue
			}
			if at := time.Unix(st.Ctim.Unix()); at.After(youngest) {
				youngest = at
			}
		}
	}
	if wait := time.Until(youngest.Add(reap.LeftoverAge)); wait > 0 {
		<-time.After(wait)
	}
}

// settle runs the program without a fault, after which nothing may be left to do. It does so twice: a dead file that was given another link
// for a moment, where there is no RENAME_NOREPLACE, may be looked at before that link is.
func settle(t testing.TB, scenes []*scene) {
	t.Helper()
	args := []string{"reap", "-r"}
	for _, s := range scenes {
		args = append(args, s.dir)
	}
	age(scenes)
	sockwatch(t, "", args...)
	e := sockwatch(t, "", args...)
	for _, s := range scenes {
		about := e.about(s.dir)
		if e.status != 0 && len(s.kept) == 0 {
			t.Errorf("without a fault: %s", about)
		}
		if !s.settled(about) {
			t.Errorf("%s is not settled: %+v\n%s", s.dir, s.look(about), about)
		}
		for _, l := range s.live {
			if s.inode(l.name) != l.ino {
				t.Errorf("%s is not the live %s any more", s.path(l.name), l.name)
			}
		}
	}
}

var errNoStop = errors.New("it was not stopped")

// awaitStop waits until a process is stopped, and gives errNoStop when it ends before. It stays to be waited for.
func awaitStop(pid int) error {
	for {
		var info unix.Siginfo
		err := unix.Waitid(unix.P_PID, pid, &info, unix.WSTOPPED|unix.WEXITED|unix.WNOWAIT, nil)
		const stopped = 5 // CLD_STOPPED of sigaction(2)
		switch {
		case errors.Is(err, unix.EINTR):
		case err == nil && info.Code != stopped:
			return errNoStop
		default:
			return err
		}
	}
}
