package records

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"

	"github.com/google/renameio/v2"

	"github.com/sockwatch/sockwatch/internal/failpoint"
	"github.com/sockwatch/sockwatch/internal/proc"
)

// Store is a directory of records. Safe for concurrent use; Put and Delete of one id must not be concurrent, or either may win.
type Store struct {
	dir    string // for messages
	bootID string

	// mu is held for reading by what works on one record. What must not meet a write holds it for writing: Close, which gives the
	// lock up, and All, which renames and removes by what it has read.
	mu   sync.RWMutex
	root *os.Root
	lock *os.File
	// unread are the names of records that All could not read, and why.
	unread map[string]error
}

// Open opens the directory of a daemon's records, which it makes if need be, in a directory that is there. Close closes it.
//
// A *LockedError when another Store has it, in this process or another. fs.ErrPermission when the directory is not the effective user's own,
// or others may write to it: they could have the daemon remove what they like. The same when the directory that it is in is not the
// effective user's own or root's, or others may write to it without a sticky bit: they could put another one in its place.
func Open(dir string) (*Store, error) {
	bootID, err := proc.FS("").BootID()
	if err != nil {
		return nil, fmt.Errorf("open records: %w", err)
	}
	if err = at("record/mkdir", dir); err == nil {
		err = os.Mkdir(dir, 0o700)
	}
	if err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, fmt.Errorf("open records: %w", err)
	}
	root, err := openOwn(dir)
	if err != nil {
		return nil, fmt.Errorf("open records: %w", err)
	}
	s := &Store{dir: dir, bootID: bootID, root: root, unread: map[string]error{}}
	if s.lock, err = takeLock(root); err != nil {
		return nil, errors.Join(fmt.Errorf("open records in %s: %w", dir, err), root.Close())
	}
	if err := s.clear(); err != nil {
		return nil, errors.Join(fmt.Errorf("open records: %w", err), s.Close())
	}
	return s, nil
}

// openOwn opens a directory that nobody else can have put anything into.
func openOwn(dir string) (*os.Root, error) {
	above := filepath.Dir(dir)
	in, err := os.Stat(above)
	if err == nil {
		err = checkAbove(in)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", above, err)
	}
	// What a symlink leads to may be ours too, and full of files that are no records.
	named, err := os.Lstat(dir)
	if err != nil {
		return nil, err
	}
	if !named.IsDir() {
		return nil, &fs.PathError{Op: "open", Path: dir, Err: syscall.ENOTDIR}
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	opened, err := root.Stat(".")
	if err == nil {
		if !os.SameFile(named, opened) {
			err = errors.New("replaced while it was opened")
		} else {
			err = checkOwn(opened)
		}
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("%s: %w", dir, err), root.Close())
	}
	return root, nil
}

// checkOwn says why a file could be of somebody else's making.
func checkOwn(info fs.FileInfo) error {
	if uid, euid := info.Sys().(*syscall.Stat_t).Uid, uint32(os.Geteuid()); uid != euid {
		return fmt.Errorf("%w: it is user %d's, want %d's", fs.ErrPermission, uid, euid)
	}
	if perm := info.Mode().Perm(); perm&0o022 != 0 {
		return fmt.Errorf("%w: others may write to it: mode %04o", fs.ErrPermission, perm)
	}
	return nil
}

// checkAbove says why what is in a directory could be replaced by somebody else. What the daemon has beside its records is meant as
// well: it gives its sockets a mode by their names, and who can put a symlink there has root give it to any file.
func checkAbove(info fs.FileInfo) error {
	if uid, euid := info.Sys().(*syscall.Stat_t).Uid, uint32(os.Geteuid()); uid != euid && uid != 0 {
		return fmt.Errorf("%w: it is user %d's, want %d's", fs.ErrPermission, uid, euid)
	}
	if mode := info.Mode(); mode.Perm()&0o022 != 0 && mode&fs.ModeSticky == 0 {
		return fmt.Errorf("%w: others may write to it: mode %04o", fs.ErrPermission, mode.Perm())
	}
	return nil
}

// Close gives the directory up. The records stay. It waits for the calls that are under way; those that come later get fs.ErrClosed.
func (s *Store) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return errors.Join(s.root.Close(), s.lock.Close())
}

// Put writes the record of an owner, in place of the one there was. When it returns nil, the record outlives this process; with an
// error, and when the process is killed meanwhile, there is the one there was.
//
// An id is made of letters, digits, ":", "@", "_" and ".", 1 to 128 of them, a letter or digit in front. ErrTooLarge when
// the owner has too many claims. Put refuses all that All would set aside or delete, and to replace what All could not read: it has
// claims that nobody knows.
func (s *Store) Put(id string, r Record) error {
	name, err := fileName(id)
	if err != nil {
		return fmt.Errorf("write record: %w", err)
	}
	b, err := encode(id, r)
	switch {
	case err != nil:
	case r.Process.BootID != s.bootID:
		err = ErrOtherBoot
	default:
		err = s.replace(name, b)
	}
	if err != nil {
		return fmt.Errorf("write record %s: %w", s.path(name), err)
	}
	return nil
}

func (s *Store) replace(name string, b []byte) error {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if err := s.known(name); err != nil {
		return err
	}
	if err := at("record/create", name); err != nil {
		return err
	}
	f, err := renameio.NewPendingFile(name, renameio.WithRoot(s.root))
	if err != nil {
		return err
	}
	if err = at("record/write", name); err == nil {
		_, err = f.Write(b)
	}
	if err == nil {
		err = at("record/rename", name)
	}
	if err == nil {
		err = f.CloseAtomicallyReplace()
	}
	if err != nil {
		return errors.Join(err, f.Cleanup())
	}
	return nil
}

// known refuses to touch a record that could not be read.
func (s *Store) known(name string) error {
	if err := s.unread[name]; err != nil {
		return fmt.Errorf("there is one that could not be read, and it is kept for the next start: %w", err)
	}
	return nil
}

// Delete deletes the record of an owner, but for one that All could not read. That there is none is no error.
func (s *Store) Delete(id string) error {
	name, err := fileName(id)
	if err == nil {
		s.mu.RLock()
		if err = s.known(name); err == nil {
			err = s.remove(name)
		}
		s.mu.RUnlock()
	}
	if err != nil {
		return fmt.Errorf("delete record: %w", err)
	}
	return nil
}

// remove removes a file of this directory. No sock-file is ever removed here: the directory is ours alone, as is the name.
func (s *Store) remove(name string) error {
	err := at("record/delete", name)
	if err == nil {
		err = s.root.Remove(name)
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return s.named(err, name)
}

// clear removes what writes left behind that were interrupted.
func (s *Store) clear() error {
	names, err := s.names()
	for _, name := range names {
		if temporary().MatchString(name) {
			err = errors.Join(err, s.remove(name))
		}
	}
	return err
}

func (s *Store) names() ([]string, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if err := at("record/list", "."); err != nil {
		return nil, s.named(err, "")
	}
	d, err := s.root.Open(".")
	if err != nil {
		return nil, s.named(err, "")
	}
	defer d.Close()
	names, err := d.Readdirnames(-1)
	return names, s.named(err, "")
}

// at is a failpoint, and fails as the step does that it is before.
func at(step, name string) error {
	if err := failpoint.Hit(step); err != nil {
		return &fs.PathError{Op: step, Path: name, Err: err}
	}
	return nil
}

func (s *Store) path(name string) string { return filepath.Join(s.dir, name) }

// named gives an error the whole path, of which os.Root tells the last part.
func (s *Store) named(err error, name string) error {
	if e := (*fs.PathError)(nil); errors.As(err, &e) {
		return &fs.PathError{Op: e.Op, Path: s.path(name), Err: e.Err}
	}
	return err
}

const (
	suffix        = ".json"
	damagedSuffix = ".damaged"
)

var (
	idForm = lazily(`^[0-9A-Za-z][0-9A-Za-z:@_.]{0,127}$`)
	// temporary are the names that renameio gives while it writes.
	temporary = lazily(`^\.[0-9A-Za-z][0-9A-Za-z@_.-]{0,127}\.json[0-9]+$`)
)

// lazily compiles an expression at its first use: most that the program is started for needs none.
func lazily(expression string) func() *regexp.Regexp {
	return sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(expression) })
}

// fileName is the name of an owner's record. "-" stands for ":" and is in no id, so no two share a name.
func fileName(id string) (string, error) {
	if !idForm().MatchString(id) {
		return "", fmt.Errorf("%q is not an id", id)
	}
	return strings.ReplaceAll(id, ":", "-") + suffix, nil
}
