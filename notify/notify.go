package notify

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// Variable is the environment variable that holds the path of the watcher's socket. One that begins with "@" is in the abstract
// namespace.
const Variable = "SOCKWATCH_NOTIFY"

// Enabled tells whether somebody watches.
func Enabled() bool { return supported && os.Getenv(Variable) != "" }

// Bound reports that this process has bound the sock-file at path. Call it right after bind(2) or listen(2).
//
// It never blocks for longer than 100 ms: the receive queue of a datagram socket is short, and when it stays full for that
// long the report is given up and the error says so. The error is for a log: the program itself has lost nothing.
func Bound(path string) error { return report("BIND", path) }

// Send sends a message of the protocol as it is, for what Bound and Closed do not say. It waits as Bound does.
func Send(message string) error {
	if !Enabled() {
		return nil
	}
	address := os.Getenv(Variable)
	if err := send(address, message); err != nil {
		return fmt.Errorf("report to %s: %w", address, err)
	}
	return nil
}

// Closed reports that the sock-file at path is not this process's concern any more, because it has removed it or has given
// the socket away.
func Closed(path string) error { return report("UNBIND", path) }

func report(key, path string) error {
	if !Enabled() {
		return nil
	}
	path, err := absolute(path)
	if err != nil {
		return fmt.Errorf("report %s: %w", path, err)
	}
	if strings.ContainsAny(path, "\n\x00") {
		return fmt.Errorf("report %q: %w", path, errNewline)
	}
	if err := Send(key + "=" + path + "\n"); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return nil
}

var errNewline = errors.New("the protocol cannot carry a path with a newline in it")

// absolute makes a path absolute, since the watcher has its own working directory. Cleaning would change the meaning of ".."
// behind a symlink.
func absolute(path string) (string, error) {
	if filepath.IsAbs(path) {
		return path, nil
	}
	wd, err := os.Getwd()
	return strings.TrimSuffix(wd, "/") + "/" + path, err
}
