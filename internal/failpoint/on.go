//go:build failpoints

package failpoint

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// Built tells whether points can be hit.
const Built = true

const variable = "SOCKWATCH_FAILPOINTS"

// rule says what happens at some of the points.
type rule struct {
	point string // "*" is every one
	nth   int    // 0 is each time
	errno unix.Errno
	kill  bool
	seen  int
}

var state = struct {
	sync.Mutex
	rules []*rule
	hits  int
}{rules: fromEnvironment()}

// Hit is called before what point names, and gives the error with which that is to fail.
func Hit(point string) error {
	if len(state.rules) == 0 {
		return nil
	}
	state.Lock()
	defer state.Unlock()
	state.hits++
	for _, r := range state.rules {
		if r.point != "*" && r.point != point {
			continue
		}
		if r.seen++; r.nth != 0 && r.seen != r.nth {
			continue
		}
		if r.kill {
			fmt.Fprintf(os.Stderr, "failpoint: %d %s: kill\n", state.hits, point)
			_ = unix.Kill(unix.Getpid(), unix.SIGKILL)
			select {} // the signal is on its way
		}
		fmt.Fprintf(os.Stderr, "failpoint: %d %s: %s\n", state.hits, point, unix.ErrnoName(r.errno))
		return r.errno
	}
	return nil
}

func fromEnvironment() []*rule {
	rules, err := parse(os.Getenv(variable))
	if err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", variable, err)
		os.Exit(2)
	}
	return rules
}

func parse(text string) ([]*rule, error) {
	var rules []*rule
	for part := range strings.SplitSeq(text, ",") {
		if part == "" {
			continue
		}
		point, what, ok := strings.Cut(part, "=")
		if !ok || point == "" {
			return nil, fmt.Errorf("rule %q: not POINT[:N]=ERRNO|kill", part)
		}
		r := &rule{point: point, kill: what == "kill"}
		if name, n, ok := strings.Cut(point, ":"); ok {
			nth, err := strconv.Atoi(n)
			if err != nil || nth < 1 {
				return nil, fmt.Errorf("rule %q: %q is no number from 1 on", part, n)
			}
			r.point, r.nth = name, nth
		}
		if !r.kill {
			if r.errno = errno(what); r.errno == 0 {
				return nil, fmt.Errorf("rule %q: %q is no error's name, and not kill", part, what)
			}
		}
		rules = append(rules, r)
	}
	return rules, nil
}

// errno is the error of a name, such as EIO.
func errno(name string) unix.Errno {
	for e := unix.Errno(1); e < 256; e++ {
		if unix.ErrnoName(e) == name {
			return e
		}
	}
	return 0
}
