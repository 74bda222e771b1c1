package model

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/sockwatch/sockwatch/reap"
)

// stat asks for the inode of a socket that a process has, under whatever name.
func (m *machine) stat(p *process, f *file) (st unix.Stat_t) {
	m.must(unix.Stat(fmt.Sprintf("/proc/%d/fd/%d", p.pid, p.pins[f]), &st))
	return st
}

// check is what holds after each step: the files of live sockets have the links that were made, one moment being under a private name
// perhaps, but never less.
func (m *machine) check() {
	if m.calm && m.service.up() {
		m.rest()
	}
	m.linked()
}

// linked looks at the files of live sockets.
func (m *machine) linked() {
	for _, f := range m.files {
		for _, p := range m.holders(f) {
			if _, has := p.pins[f]; !has {
				continue // in its mail only
			}
			if st := m.stat(p, f); int(st.Nlink) < len(f.names) {
				m.wrongly("LOST: %s lives, held by %s, and has %d links of %d", f, p, st.Nlink, len(f.names))
			}
			break
		}
	}
	for _, trouble := range m.service.troubles() {
		m.wrongly("logged: %s", trouble)
	}
}

// settle has everything come to rest.
func (m *machine) settle() {
	m.say("all comes to rest")
	m.service.revive()
	m.rest()
	m.linked()
}

// rest waits until all is quiet, and looks at everything.
func (m *machine) rest() {
	for _, p := range m.processes {
		if p.dead && p.watched {
			m.service.settled(p)
		}
	}
	for _, f := range m.files {
		for p := range f.told {
			if f.told[p] && !f.claimed && !p.dead && m.alive(f) {
				m.awaitKnown(f)
				break
			}
		}
	}
	var wrong string
	if !m.service.await(func() bool { wrong = m.wrong(); return wrong == "" }) {
		m.wrongly("%s", wrong)
	}
	for name, f := range m.names { // what might have been removed is, or is not
		if m.fate(f) == stays {
			continue
		}
		if _, err := os.Lstat(m.path(name)); errors.Is(err, fs.ErrNotExist) {
			delete(f.names, name)
			delete(m.names, name)
		}
	}
	m.removing = false
}

// wrong tells what is not as it should be once all is quiet, "" for nothing.
func (m *machine) wrong() string {
	there := map[string]uint64{}
	for _, dir := range directories {
		entries, err := os.ReadDir(m.path(dir))
		m.must(err)
		for _, e := range entries {
			name := filepath.Join(dir, e.Name())
			var st unix.Stat_t
			switch err := unix.Lstat(m.path(name), &st); {
			case errors.Is(err, unix.ENOENT): // just gone
			case err != nil:
				m.Fatal(err)
			case reap.IsPrivate(e.Name()):
				return name + " is left"
			case m.names[name] == nil:
				return name + " has come from nowhere"
			default:
				there[name] = st.Ino
			}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(m.names)) {
		f := m.names[name]
		ino, is := there[name]
		switch fate := m.fate(f); {
		case fate == goes && is:
			return fmt.Sprintf("%s is left: %s is dead, and was claimed", name, f)
		case fate == stays && !is && !f.displaced:
			return fmt.Sprintf("%s is gone: %s, of %v", name, f, m.holders(f))
		case fate == stays && is && ino != f.ino:
			return fmt.Sprintf("%s is another inode than %s", name, f)
		case fate == stays && is:
			if err := m.same(f, name); err != nil {
				return fmt.Sprintf("%s of %s: %v", name, f, err)
			}
		}
	}
	return ""
}

// same tells whether a file that stays is what it was: what is no sock-file has its content, and a listener can be connected with.
func (m *machine) same(f *file, name string) (err error) {
	content := f.content
	switch {
	case f.what == "file":
		var b []byte
		b, err = os.ReadFile(m.path(name))
		content = string(b)
	case f.what == "symlink":
		content, err = os.Readlink(m.path(name))
	case f.stream && m.alive(f) && f.loose == "":
		return knock(m.path(name))
	}
	if err == nil && content != f.content {
		err = fmt.Errorf("it says %q", content)
	}
	return err
}

// knock connects with a listener. One that does not accept is as good: its queue is full.
func knock(path string) error {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	err = unix.Connect(fd, &unix.SockaddrUnix{Name: path})
	if errors.Is(err, unix.EAGAIN) {
		return nil
	}
	return err
}

// finish is the end of everybody, and what must be then.
func (m *machine) finish() {
	m.say("everybody is killed")
	for _, p := range m.processes {
		if !p.dead {
			m.must(p.handle.Signal(unix.SIGKILL))
		}
	}
	for _, p := range m.processes {
		if !p.dead {
			m.ended(p)
		}
	}
	m.settle()
}
