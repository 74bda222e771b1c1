package proc

import (
	"bufio"
	"errors"
	"io"
	"io/fs"
	"iter"
	"os"
	"strconv"
	"strings"
)

// Mount is one line of /proc/PID/mountinfo: proc_pid_mountinfo(5). Strings are as they were before the kernel escaped
// them, options apart.
type Mount struct {
	ID, Parent   uint64 // ID is what statx(2) gives for STATX_MNT_ID
	Major, Minor uint32 // device of the superblock, which on btrfs is not st_dev
	Root         string // what of the filesystem is mounted, a path in it
	Point        string // where, seen from the root directory of the process
	Options      string // of this mount: see Option
	Type         string // of the filesystem; "fuse.NAME" for some
	Source       string // whatever the filesystem calls so, "" included
	SuperOptions string // of the filesystem: see Option
}

// Mounts yields the mounts that the process sees, or the calling thread for pid 0. Mount points out of reach from its
// root directory are missing. An error ends it.
func (p FS) Mounts(pid int) iter.Seq2[Mount, error] {
	path := p.pidPath(pid, "mountinfo")
	if pid == 0 {
		// Mount namespaces are of threads, and /proc/self tells nothing more once the main thread has ended.
		path = p.path() + "/thread-self/mountinfo"
	}
	return func(yield func(Mount, error) bool) {
		file, err := os.Open(path)
		if err != nil {
			yield(Mount{}, checkGone(err))
			return
		}
		defer file.Close()
		// Lines are of any length: overlayfs names all its layers in one.
		for r := bufio.NewReader(file); ; {
			line, err := r.ReadString('\n')
			if errors.Is(err, io.EOF) && line == "" {
				return
			}
			if err != nil && !errors.Is(err, io.EOF) {
				yield(Mount{}, checkGone(err))
				return
			}
			m, err := parseMount(strings.TrimSuffix(line, "\n"))
			if err != nil {
				yield(Mount{}, &fs.PathError{Op: "parse", Path: path, Err: err})
				return
			}
			if !yield(m, nil) {
				return
			}
		}
	}
}

// Option looks for an option in Mount.Options or Mount.SuperOptions: "ro" has no value, that of "lowerdir=/a" is "/a".
// What the kernel escaped in the value is undone; what the filesystem itself escapes, such as overlayfs the colon, is
// not.
func Option(options, name string) (value string, ok bool) {
	for o := range strings.SplitSeq(options, ",") {
		if key, value, _ := strings.Cut(o, "="); key == name {
			return unescape(value), true
		}
	}
	return "", false
}

var errMount = errors.New("not a mountinfo line")

func parseMount(line string) (Mount, error) {
	// Fields are separated by one space each: a source may be empty.
	next := func() (field string) {
		field, line, _ = strings.Cut(line, " ")
		return field
	}
	var m Mount
	var err error
	if m.ID, err = strconv.ParseUint(next(), 10, 64); err != nil {
		return Mount{}, err
	}
	if m.Parent, err = strconv.ParseUint(next(), 10, 64); err != nil {
		return Mount{}, err
	}
	if m.Major, m.Minor, err = parseDev(next()); err != nil {
		return Mount{}, err
	}
	m.Root, m.Point, m.Options = unescape(next()), unescape(next()), next()
	for next() != "-" { // optional fields such as shared:1
		if line == "" {
			return Mount{}, errMount
		}
	}
	m.Type, m.Source, m.SuperOptions = unescape(next()), unescape(next()), next()
	if m.Root == "" || m.Point == "" || m.Type == "" || line != "" {
		return Mount{}, errMount
	}
	return m, nil
}

func parseDev(s string) (major, minor uint32, err error) {
	a, b, ok := strings.Cut(s, ":")
	if !ok {
		return 0, 0, errMount
	}
	ma, err := strconv.ParseUint(a, 10, 32)
	if err != nil {
		return 0, 0, err
	}
	mi, err := strconv.ParseUint(b, 10, 32)
	return uint32(ma), uint32(mi), err
}

// unescape turns the "\040" that the kernel writes for a space, and its like, back (mangle_path in fs/seq_file.c).
func unescape(s string) string {
	i := strings.IndexByte(s, '\\')
	if i < 0 {
		return s
	}
	b := append(make([]byte, 0, len(s)), s[:i]...)
	for ; i < len(s); i++ {
		if s[i] == '\\' && i+4 <= len(s) {
			if n, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				b = append(b, byte(n))
				i += 3
				continue
			}
		}
		b = append(b, s[i])
	}
	return string(b)
}
