package socktest

import (
	"crypto/rand"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"github.com/sockwatch/sockwatch/internal/proc"
	"github.com/sockwatch/sockwatch/pidfd"
	"github.com/sockwatch/sockwatch/reap"
)

// sighting is a sock-file that has appeared.
type sighting struct {
	file     *reap.File
	secluded bool // in a directory that the test process made: nobody else has any business there

	binder  binder
	process *pidfd.Process // of binderChild, and of binderOther where it is known
	pid     int
	comm    string
}

// binder is who has bound a sock-file.
type binder int

const (
	binderUnknown binder = iota // nobody saw it
	binderSelf                  // the test process
	binderChild                 // a descendant of it
	binderOther
)

func (s *sighting) close() {
	_ = s.file.Close()
	if s.process != nil {
		_ = s.process.Close()
	}
}

// findBinder finds out who has bound the file: who made the name, where that is known, else who of the family has the socket
// open.
func (s *sighting) findBinder(maker int) {
	if maker == os.Getpid() {
		s.binder = binderSelf
		return
	}
	if maker > 0 {
		if p, err := pidfd.Open(maker); err == nil {
			who := binderOther
			if descends(maker) {
				who = binderChild
			}
			s.boundBy(who, p, maker)
			return
		}
	}
	s.barrier()
	if state, _ := s.file.Probe(); state != reap.StateAlive {
		return
	}
	s.binder = binderOther
	family, pids := openFamily()
	whose, err := reap.Whose([]*reap.File{s.file}, family)
	for i, p := range family {
		switch {
		case err != nil || i != whose[0]:
			_ = p.Close()
		case pids[i] == os.Getpid():
			s.binder = binderSelf
			_ = p.Close()
		default:
			s.boundBy(binderChild, p, pids[i])
		}
	}
	// Who of them it was may have ended while we looked.
	if state, _ := s.file.Probe(); s.binder == binderOther && (err != nil || state != reap.StateAlive) {
		s.binder = binderUnknown
	}
}

// barrier waits for the end of a bind(2) that is under way: the file is visible before the socket is bound to it, and until
// then the directory is locked. A name that was never looked up is looked up under that lock.
func (s *sighting) barrier() {
	_, _ = os.Lstat(filepath.Join(filepath.Dir(s.file.Path()), ".sockwatch-"+rand.Text()))
}

// boundBy takes p over.
func (s *sighting) boundBy(who binder, p *pidfd.Process, pid int) {
	s.binder, s.process, s.pid = who, p, pid
	if info, err := p.Info(); err == nil {
		s.comm = info.Comm
	}
}

// blamed tells whether the tests of this process are to be blamed for the file; unsure, whether that is not known.
func (s *sighting) blamed() (blamed, unsure bool) {
	return s.secluded || s.binder == binderSelf || s.binder == binderChild, s.binder == binderUnknown
}

// present tells whether the file is there under its name.
func (s *sighting) present() bool {
	f, err := reap.Open(s.file.Path())
	if err != nil {
		return false
	}
	defer f.Close()
	return f.ID() == s.file.ID()
}

// dead tells whether no socket is bound to the file, and none will be.
func (s *sighting) dead() bool {
	if state, _ := s.file.Probe(); state != reap.StateDead {
		return false
	}
	s.barrier()
	state, _ := s.file.Probe()
	return state == reap.StateDead
}

// ending tells whether a file that is alive may be dead in a moment: its process has ended.
func (s *sighting) ending() bool {
	if s.process == nil {
		return false
	}
	exited, err := s.process.Exited()
	return err == nil && exited
}

// String describes the file: path, inode, who has bound it, what became of that one.
func (s *sighting) String() string {
	who := "it was not seen who bound it"
	switch {
	case s.binder == binderSelf:
		who = "bound by the test process itself, which has closed it"
	case s.process != nil:
		who = "bound by process " + strconv.Itoa(s.pid) + " (" + printable(s.comm) + "), " + s.fate()
	}
	return fmt.Sprintf("%s (inode %d, %s)", printable(s.file.Path()), s.file.ID().Inode(), who)
}

func (s *sighting) fate() string {
	if exited, err := s.process.Exited(); err != nil || !exited {
		return "which has closed it and still runs"
	}
	switch exit := s.process.Exit(); {
	case !exit.Known:
		return "which has ended (" + exit.Reason + ")"
	case exit.Signal != 0:
		return exit.String()
	default:
		return "which has ended with " + exit.String()
	}
}

// descends tells whether a process is below this one.
func descends(pid int) bool {
	for range deepest {
		stat, err := proc.FS("").Stat(pid)
		if err != nil || stat.PPID <= 0 {
			return false
		}
		if pid = stat.PPID; pid == os.Getpid() {
			return true
		}
	}
	return false
}

// deepest bounds the way up a tree that changes while it is climbed.
const deepest = 256

// openFamily opens this process and its descendants, the youngest generation last.
func openFamily() (family []*pidfd.Process, pids []int) {
	for queue := []int{os.Getpid()}; len(queue) > 0; queue = queue[1:] {
		pid := queue[0]
		if p, err := pidfd.Open(pid); err == nil {
			family, pids = append(family, p), append(pids, pid)
		}
		children, _ := proc.FS("").Children(pid)
		queue = append(queue, children...)
	}
	return family, pids
}

// printable is text as it may go to a terminal.
func printable(text string) string {
	if quoted := strconv.Quote(text); quoted != `"`+text+`"` {
		return quoted
	}
	return text
}
