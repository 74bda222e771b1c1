package reap

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
)

// Convention is a pattern that some program's sock-files are named by, such as "{name}@{pid}.sock". It gives the name
// that a process would have used, and takes such a name apart.
//
// A pattern is the base name of a file: the directory is the bindspace. {name} and {pid} may each stand in it once, at
// least one must: a name that is the same for every process says nothing about its owner and is better given as a
// path. {{ and }} are literal braces; every other byte but "/" and NUL is literal.
//
// A convention is a guess. A number that stands where the pid should be need not be one (registry@1616.sock), and pids are
// given out again. Never decide by it that a sock-file is dead.
//
// Conventions are comparable. The zero Convention names nothing: Build fails and Parse matches no name.
type Convention struct {
	pattern string
	holes   [2]hole   // in the order in which they stand; holes[0] is set in every parsed Convention
	literal [3]string // before, between and after the holes
}

// hole is what a placeholder is filled with.
type hole byte

const (
	noHole hole = iota
	nameHole
	pidHole
)

// placeholders are the holes as they are written.
var placeholders = map[string]hole{"{name}": nameHole, "{pid}": pidHole}

// maxFileName is NAME_MAX, in bytes.
const maxFileName = 255

// maxPID is what pid_t holds. The kernel gives out far fewer, see pid_max in proc_sys_kernel(5).
const maxPID = math.MaxInt32

// SyntaxError tells what is wrong with the pattern of a convention, and where.
type SyntaxError struct {
	Pattern string
	Offset  int // of the byte in Pattern at which it goes wrong
	Msg     string
}

// Error names the pattern, the place and what is wrong, in one line.
func (e *SyntaxError) Error() string {
	where := "at its end"
	if e.Offset < len(e.Pattern) {
		where = fmt.Sprintf("at byte %d, %q", e.Offset, e.Pattern[e.Offset:])
	}
	return fmt.Sprintf("convention %q: %s: %s", e.Pattern, where, e.Msg)
}

// ParseConvention reads a pattern. The error is a *[SyntaxError].
func ParseConvention(pattern string) (Convention, error) {
	c := Convention{pattern: pattern}
	fail := func(offset int, msg string) (Convention, error) {
		return Convention{}, &SyntaxError{Pattern: pattern, Offset: offset, Msg: msg}
	}
	var text strings.Builder // the literal read so far
	n := 0                   // holes read so far
	for i := 0; i < len(pattern); {
		switch b := pattern[i]; {
		case b == '/':
			return fail(i, `a convention names a file in a bindspace and cannot hold "/"`)
		case b == 0:
			return fail(i, "a file name cannot hold a NUL byte")
		case b != '{' && b != '}':
			text.WriteByte(b)
			i++
		case i+1 < len(pattern) && pattern[i+1] == b: // {{ or }}
			text.WriteByte(b)
			i += 2
		case b == '}':
			return fail(i, "} without {; a literal } is written }}")
		default:
			end := strings.IndexByte(pattern[i:], '}')
			if end < 0 {
				return fail(i, "{ without }; a literal { is written {{")
			}
			word := pattern[i : i+end+1]
			h := placeholders[word]
			if h == noHole {
				return fail(i, "unknown placeholder; known are {name} and {pid}, and a literal { is written {{")
			}
			if slices.Contains(c.holes[:], h) {
				return fail(i, word+" stands twice")
			}
			c.literal[n] = text.String()
			text.Reset()
			c.holes[n] = h
			n++
			i += len(word)
		}
	}
	if n == 0 {
		return fail(len(pattern), "neither {name} nor {pid}: a file that is the same for every process is named by its path")
	}
	c.literal[n] = text.String()
	if len(c.literal[0])+len(c.literal[1])+len(c.literal[2])+n > maxFileName {
		return fail(len(pattern), fmt.Sprintf("longer than a file name may be (%d bytes)", maxFileName))
	}
	return c, nil
}

// Build gives the base name that a process with this name and pid would use. What the pattern has no placeholder for
// is not looked at.
//
// It fails when name is empty or holds "/" or NUL, when pid is not positive or more than pid_t holds, and when the result
// cannot name a file: "." and ".." and what is longer than 255 bytes.
func (c Convention) Build(name string, pid int) (string, error) {
	if c.holes[0] == noHole {
		return "", errors.New("empty convention")
	}
	var base strings.Builder
	base.WriteString(c.literal[0])
	for i, h := range c.holes {
		switch h {
		case nameHole:
			if err := checkName(name); err != nil {
				return "", fmt.Errorf("convention %q: name %q: %w", c.pattern, name, err)
			}
			base.WriteString(name)
		case pidHole:
			if pid <= 0 || pid > maxPID {
				return "", fmt.Errorf("convention %q: %d is not a pid", c.pattern, pid)
			}
			base.WriteString(strconv.Itoa(pid))
		case noHole:
			continue
		}
		base.WriteString(c.literal[i+1])
	}
	if err := checkBase(base.String()); err != nil {
		return "", fmt.Errorf("convention %q: file name %q: %w", c.pattern, base.String(), err)
	}
	return base.String(), nil
}

func checkName(name string) error {
	switch {
	case name == "":
		return errors.New("it is empty")
	case strings.IndexByte(name, '/') >= 0:
		return errors.New(`it cannot hold "/"`)
	case strings.IndexByte(name, 0) >= 0:
		return errors.New("it cannot hold a NUL byte")
	default:
		return nil
	}
}

func checkBase(base string) error {
	switch {
	case base == "." || base == "..":
		return errors.New("it names a directory")
	case len(base) > maxFileName:
		return fmt.Errorf("%d bytes, more than the %d a file name may have", len(base), maxFileName)
	default:
		return nil
	}
}

// Parse takes a base name apart. Where ok, Build gives the same base name again; what the pattern has no placeholder for
// is "" or 0. The pid is decimal, without sign or leading zeros.
//
// Where nothing but digits separates {name} from {pid}, as in "{name}{pid}", a name can be read in more than one
// way. The pid then takes as many digits as it can: "worker12" is worker with pid 12, also where it was built from
// worker1 with pid 2.
func (c Convention) Parse(base string) (name string, pid int, ok bool) {
	if c.holes[0] == noHole || checkBase(base) != nil {
		return "", 0, false
	}
	rest, ok := strings.CutPrefix(base, c.literal[0])
	if !ok {
		return "", 0, false
	}
	if c.holes[1] == noHole {
		if rest, ok = strings.CutSuffix(rest, c.literal[1]); !ok {
			return "", 0, false
		}
		if c.holes[0] == pidHole {
			pid, ok = parsePID(rest)
			return "", pid, ok
		}
		if checkName(rest) != nil {
			return "", 0, false
		}
		return rest, 0, true
	}
	if rest, ok = strings.CutSuffix(rest, c.literal[2]); !ok {
		return "", 0, false
	}
	// The longest pid that leaves a name wins: the one reading there is, unless only digits separate the two.
	for digits := min(len(rest), len("2147483647")); digits > 0; digits-- {
		if name, pid, ok = c.divide(rest, digits); ok {
			return name, pid, true
		}
	}
	return "", 0, false
}

// divide takes what is between the outer literals apart, given the length of the pid in it.
func (c Convention) divide(s string, digits int) (name string, pid int, ok bool) {
	var number string
	if c.holes[0] == pidHole {
		number = s[:digits]
		name, ok = strings.CutPrefix(s[digits:], c.literal[1])
	} else {
		number = s[len(s)-digits:]
		name, ok = strings.CutSuffix(s[:len(s)-digits], c.literal[1])
	}
	if !ok || checkName(name) != nil {
		return "", 0, false
	}
	pid, ok = parsePID(number)
	return name, pid, ok
}

// parsePID reads a pid the way Build writes it.
func parsePID(s string) (pid int, ok bool) {
	n, err := strconv.ParseInt(s, 10, 32)
	if err != nil || n <= 0 || s[0] < '1' || s[0] > '9' {
		return 0, false
	}
	return int(n), true
}

// String gives the pattern.
func (c Convention) String() string { return c.pattern }

// MarshalText gives the pattern.
func (c Convention) MarshalText() ([]byte, error) { return []byte(c.pattern), nil }

// UnmarshalText is ParseConvention.
func (c *Convention) UnmarshalText(text []byte) error {
	parsed, err := ParseConvention(string(text))
	if err != nil {
		return err
	}
	*c = parsed
	return nil
}
