package notifyd

import (
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sockwatch/sockwatch/internal/sys"
	"github.com/sockwatch/sockwatch/reap"
)

// Names of what ListenTemp makes.
const (
	tempPrefix = "sockwatch-"
	tempSocket = "notify"
	tempRandom = 12 // bytes after the prefix
)

// maxAddress is the room for a path in sockaddr_un, without its NUL: unix(7).
const maxAddress = 107

// emptyAge is how old a directory without a socket must be to be taken for a leftover, and not for one whose maker has yet
// to bind its socket.
const emptyAge = time.Minute

// ListenTemp makes the socket in a new directory of its own, which every user may pass: below /run for root, else or when that
// cannot be, $XDG_RUNTIME_DIR, $TMPDIR or /tmp, whichever works first. Socket and directory are removed by Close; those of our
// own user whose process was killed, by the next ListenTemp. The error names each place and why it would not do.
func ListenTemp(o Options) (*Receiver, error) { return listenFirst(tempBases(), o) }

func listenFirst(bases []string, o Options) (*Receiver, error) {
	var errs []error
	for _, base := range bases {
		r, err := listenBelow(base, o)
		if err == nil {
			return r, nil
		}
		errs = append(errs, fmt.Errorf("below %q: %w", base, err))
	}
	return nil, fmt.Errorf("no place for a notify socket: %w", errors.Join(errs...))
}

func tempBases() []string {
	var bases []string
	if os.Geteuid() == 0 {
		bases = append(bases, "/run")
	}
	if dir := os.Getenv("XDG_RUNTIME_DIR"); dir != "" {
		bases = append(bases, dir)
	}
	return append(bases, os.TempDir(), "/tmp")
}

func listenBelow(base string, o Options) (*Receiver, error) {
	if !filepath.IsAbs(base) {
		return nil, errors.New("the path is not absolute") // and would mean another place to a child elsewhere
	}
	dir := filepath.Join(base, tempPrefix+randomName())
	path := filepath.Join(dir, tempSocket)
	if len(path) > maxAddress {
		return nil, fmt.Errorf("the socket's path would have %d bytes, and an address has room for %d", len(path), maxAddress)
	}
	clearLeftovers(base)
	if err := os.Mkdir(dir, 0o700); err != nil {
		return nil, err
	}
	r, err := Listen(path, o)
	if err == nil {
		r.dir = dir
		// Only now: until its mode is set, the socket has the one that the umask leaves it.
		err = os.Chmod(dir, 0o711)
	}
	if err != nil {
		if r != nil {
			_ = r.Close()
		}
		removeDir(dir)
		return nil, err
	}
	return r, nil
}

// randomName makes a name for a directory. The first use of crypto/rand would cost a tenth of a millisecond of each start, and arms a
// timer, for which the runtime may have to make descriptors: at the limit it cannot, and ends the process.
func randomName() string {
	digits := strconv.FormatUint(rand.Uint64()|1<<63, 36)
	return digits[len(digits)-tempRandom:]
}

// isTemp tells whether a directory has a name of randomName's making.
func isTemp(name string) bool {
	random, ok := strings.CutPrefix(name, tempPrefix)
	return ok && len(random) == tempRandom && strings.Trim(random, "0123456789abcdefghijklmnopqrstuvwxyz") == ""
}

// clearLeftovers removes what processes of our own user left below base when they were killed. What cannot be looked at or
// removed stays.
func clearLeftovers(base string) {
	entries, err := os.Open(base)
	if err != nil {
		return
	}
	defer entries.Close()
	for {
		names, err := entries.Readdirnames(1024)
		for _, name := range names {
			if isTemp(name) {
				clearLeftover(filepath.Join(base, name))
			}
		}
		if err != nil {
			return
		}
	}
}

// clearLeftover removes one directory, if its socket is dead. Several may do so at a time, and its owner may be about to
// bind the socket, or to remove it: so the directory goes only with the dead file that we ourselves have removed from it.
func clearLeftover(dir string) {
	uid := uint32(os.Geteuid())
	info, err := os.Lstat(dir)
	if err != nil || !info.IsDir() {
		return
	}
	if st, ok := info.Sys().(*syscall.Stat_t); !ok || st.Uid != uid {
		return
	}
	file, err := reap.Open(filepath.Join(dir, tempSocket))
	if errors.Is(err, fs.ErrNotExist) && time.Since(info.ModTime()) > emptyAge {
		// Its owner was killed before it had bound the socket, or in the middle of removing it: then that has a private name.
		settle(dir, uid)
		removeDir(dir)
	}
	if err != nil {
		return
	}
	defer file.Close()
	if file.UID() == uid && file.Remove(reap.RemoveOptions{}).Outcome == reap.OutcomeRemoved {
		removeDir(dir)
	}
}

// settle removes what is dead and has a private name in a user's directory, and nothing else. What it cannot remove keeps the directory.
func settle(dir string, uid uint32) {
	pin, err := sys.OpenPin(unix.AT_FDCWD, dir)
	if err != nil {
		return
	}
	defer func() { _ = sys.Close(pin) }()
	if st, err := sys.Fstat(pin); err == nil && st.UID == uid {
		_, _, _ = reap.Settle(nil, pin, ".")
	}
}

// removeDir removes a directory of ours, if it is empty.
func removeDir(dir string) {
	_ = unix.Rmdir(dir) //nolint:forbidigo // a directory with a random name of our own, which rmdir(2) leaves if anything is in it
}
