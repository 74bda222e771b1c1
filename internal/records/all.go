package records

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"slices"
	"strconv"
	"strings"
)

// Entry is a record and the id it was put by.
type Entry struct {
	ID string
	Record
}

// ErrOtherBoot says that a record was of a boot before this one. Its sockets ended with that boot, and it was deleted.
var ErrOtherBoot = errors.New("record of another boot")

// DamagedError says that a record was no record as Put makes them, and was set aside: nothing but a person looks at it again.
type DamagedError struct {
	Path  string // of the record
	Aside string // where it is now; empty when it could not be renamed, which Err then tells too
	Err   error  // what is wrong with it
}

func (e *DamagedError) Error() string {
	if e.Aside == "" {
		return fmt.Sprintf("damaged record %q: %v", e.Path, e.Err)
	}
	return fmt.Sprintf("damaged record %q, now %q: %v", e.Path, e.Aside, e.Err)
}

func (e *DamagedError) Unwrap() error { return e.Err }

// All reads the records, those of one name after the other; what is put meanwhile may be among them. No error ends it before
// all were tried: with each comes no Entry, and it is a *DamagedError, ErrOtherBoot, or that of reading one record, which
// was left as it is and is left so by Put and Delete. Its own error is that the directory could not be read.
//
// Names that do not end in ".json" are not looked at.
func (s *Store) All() (iter.Seq2[Entry, error], error) {
	names, err := s.names()
	if err != nil {
		return nil, fmt.Errorf("list records: %w", err)
	}
	slices.Sort(names)
	return func(yield func(Entry, error) bool) {
		for _, name := range names {
			if !strings.HasSuffix(name, suffix) {
				continue
			}
			e, err := s.read(name)
			if errors.Is(err, fs.ErrNotExist) {
				continue // deleted since
			}
			if !yield(e, err) {
				return
			}
		}
	}, nil
}

func (s *Store) read(name string) (Entry, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	b, damage, err := s.load(name)
	if err != nil {
		err = fmt.Errorf("read record: %w", s.named(err, name))
		if !errors.Is(err, fs.ErrNotExist) {
			s.unread[name] = err
		}
		return Entry{}, err
	}
	delete(s.unread, name)
	var e Entry
	if damage == nil {
		e.ID, e.Record, damage = decode(b)
	}
	if damage == nil {
		if want, err := fileName(e.ID); err != nil || want != name {
			damage = fmt.Errorf("it is that of %q", e.ID)
		}
	}
	if damage != nil {
		return Entry{}, s.setAside(name, damage)
	}
	if e.Process.BootID != s.bootID {
		if err := s.remove(name); err != nil {
			return Entry{}, fmt.Errorf("%w: %w", ErrOtherBoot, err)
		}
		return Entry{}, fmt.Errorf("%w: %s", ErrOtherBoot, s.path(name))
	}
	return e, nil
}

// load reads a file. Being refused by the kernel, for want of descriptors or memory, is no damage and must not cost a claim.
func (s *Store) load(name string) (b []byte, damage, err error) {
	// Before it is opened: that alone can do something to a device, and waits for the writer of a fifo.
	info, err := s.root.Lstat(name)
	if err != nil {
		return nil, nil, err
	}
	switch {
	case !info.Mode().IsRegular():
		return nil, fmt.Errorf("not a regular file: %s", info.Mode()), nil
	case info.Size() > maxSize:
		return nil, ErrTooLarge, nil
	}
	if damage := checkOwn(info); damage != nil {
		return nil, damage, nil
	}
	if err := at("record/read", name); err != nil {
		return nil, nil, err
	}
	f, err := s.root.Open(name)
	if err != nil {
		return nil, nil, err
	}
	defer f.Close()
	b = make([]byte, info.Size())
	if _, err := io.ReadFull(f, b); err != nil {
		return nil, nil, err
	}
	return b, nil, nil
}

// setAside renames a damaged record to a name that is free: nobody else makes names here.
func (s *Store) setAside(name string, damage error) error {
	aside := name + damagedSuffix
	var err error
	for i := 2; ; i++ {
		if _, err = s.root.Lstat(aside); err != nil {
			break
		}
		aside = name + damagedSuffix + "." + strconv.Itoa(i)
	}
	if errors.Is(err, fs.ErrNotExist) {
		if err = at("record/aside", name); err == nil {
			err = s.root.Rename(name, aside)
		}
	}
	if err != nil {
		return &DamagedError{Path: s.path(name), Err: fmt.Errorf("%w; it could not be set aside: %w", damage, err)}
	}
	return &DamagedError{Path: s.path(name), Aside: s.path(aside), Err: damage}
}
