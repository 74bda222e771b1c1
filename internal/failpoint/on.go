//go:build failpoints

package failpoint

import (
	"fmt"
	"os"
	"runtime"
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
	seen  int

	what  string      // as it is told
	errno unix.Errno  // what the point is to fail with; 0:
	sig   unix.Signal // what the process is to get
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
	due := next(state.rules, point)
	for _, r := range due {
		fmt.Fprintf(os.Stderr, "failpoint: %d %s: %s\n", state.hits, point, r.what)
		if r.errno != 0 {
			return r.errno
		}
		raise(r.sig)
	}
	return nil
}

// next counts a point, and gives the rules that are to be followed at it.
func next(rules []*rule, point string) (due []*rule) {
	over := false
	for _, r := range rules {
		if r.point != "*" && r.point != point {
			continue
		}
		if r.seen++; over || (r.nth != 0 && r.seen != r.nth) {
			continue
		}
		due = append(due, r)
		over = r.sig != unix.SIGSTOP
	}
	return due
}

// raise returns when the signal has been dealt with: one to the process may be taken by another thread, and this one would go on meanwhile.
func raise(sig unix.Signal) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	_ = unix.Tgkill(unix.Getpid(), unix.Gettid(), sig)
}

func fromEnvironment() []*rule {
	rules, err := parse(os.Getenv(variable))
	if err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", variable, err)
		os.Exit(2) //nolint:forbidigo // a test that is not what it was meant to be must not go on, and there is nobody to return the error to
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
			return nil, fmt.Errorf("rule %q: not POINT[:N]=ERRNO|kill|stop", part)
		}
		r := &rule{point: point, what: what}
		if name, n, ok := strings.Cut(point, ":"); ok {
			nth, err := strconv.Atoi(n)
			if err != nil || nth < 1 {
				return nil, fmt.Errorf("rule %q: %q is no number from 1 on", part, n)
			}
			r.point, r.nth = name, nth
		}
		switch what {
		case "kill":
			r.sig = unix.SIGKILL
		case "stop":
			r.sig = unix.SIGSTOP
		default:
			if r.errno = errno(what); r.errno == 0 {
				return nil, fmt.Errorf("rule %q: %q is no error's name, and neither kill nor stop", part, what)
			}
		}
		rules = append(rules, r)
	}
	return rules, nil
}

// errno is the error of a name, such as EIO.
func errno(name string) unix.Errno {
	for e := unix.Errno(1); name != "" && e < 256; e++ {
		if unix.ErrnoName(e) == name {
			return e
		}
	}
	return 0
}
