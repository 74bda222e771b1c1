package notify

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// Variable is the environment variable that holds the address of the watcher's socket, a path. One that begins with "@" is
// in the abstract namespace, unix(7).
const Variable = "SOCKWATCH_NOTIFY"

// MaxMessage is the length of the longest message that a watcher takes, in bytes.
const MaxMessage = 32 << 10

// ErrTooLong is the error of a message of more than MaxMessage bytes.
var ErrTooLong = fmt.Errorf("the message is longer than %d bytes", MaxMessage)

// ErrQueueFull is the error of a report that was given up, since the watcher's receive queue stayed full.
var ErrQueueFull = errors.New("the receive queue stayed full")

// Enabled tells whether somebody watches: the variable is set.
func Enabled() bool { return supported && os.Getenv(Variable) != "" }

// Bound reports that this process has bound the sock-file at path. Call it right after bind(2) or listen(2). A path that is
// relative is taken from the working directory of this moment.
//
// It never waits for longer than 100 ms: the receive queue of a datagram socket is short, and when it stays full for that
// long the report is given up with ErrQueueFull. A watcher that is gone is fs.ErrNotExist or ECONNREFUSED. Every error names
// the address. It is for a log: the program itself has lost nothing.
func Bound(path string) error { return report("BIND", path) }

// Closed reports that the sock-file at path is not this process's concern any more, because it has removed it or has given
// the socket away. It waits and fails as Bound does.
func Closed(path string) error { return report("UNBIND", path) }

// Send sends a message of the protocol as it is, for what Bound and Closed do not say. It waits and fails as Bound does, and
// with ErrTooLong.
func Send(message string) error {
	if !Enabled() {
		return nil
	}
	address := os.Getenv(Variable)
	err := ErrTooLong // the watcher would drop it
	if len(message) <= MaxMessage {
		err = send(address, message)
	}
	if err != nil {
		return fmt.Errorf("report to %s: %w", address, err)
	}
	return nil
}

// report sends a message of one line.
func report(key, path string) error {
	if !Enabled() {
		return nil
	}
	abs, err := absolute(path)
	if err == nil {
		err = Send(key + "=" + abs + "\n")
	}
	if err != nil {
		return fmt.Errorf("%s=%q: %w", key, path, err)
	}
	return nil
}

var (
	errEmpty   = errors.New("an empty path is no sock-file's")
	errNewline = errors.New("the protocol cannot carry a path with a newline or a NUL byte in it")
)

// absolute makes a path absolute, since the watcher has its own working directory. Cleaning would change the meaning of ".."
// behind a symlink.
func absolute(path string) (string, error) {
	if path == "" {
		return "", errEmpty
	}
	if !filepath.IsAbs(path) {
		wd, err := os.Getwd()
		if err != nil {
			return "", err
		}
		path = strings.TrimSuffix(wd, "/") + "/" + path
	}
	if strings.ContainsAny(path, "\n\x00") {
		return "", errNewline
	}
	return path, nil
}
