package main

import (
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// dirWatch tells the moment in which a name goes from a directory, inotify(7).
type dirWatch struct{ events *os.File }

func watchDir(dir string) (*dirWatch, error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, os.NewSyscallError("inotify_init1", err)
	}
	w := &dirWatch{os.NewFile(uintptr(fd), "inotify")}
	if _, err := unix.InotifyAddWatch(fd, dir, unix.IN_DELETE|unix.IN_MOVED_FROM); err != nil {
		w.close()
		return nil, fmt.Errorf("watching %s: %w", dir, os.NewSyscallError("inotify_add_watch", err))
	}
	return w, nil
}

// waitGone returns the time at which path was seen to be gone.
func (w *dirWatch) waitGone(path string) (time.Time, error) {
	if err := w.events.SetReadDeadline(time.Now().Add(patience)); err != nil {
		return time.Time{}, err
	}
	// Any event will do to look again: what it says is not needed.
	events := make([]byte, 4096)
	for exists(path) {
		if _, err := w.events.Read(events); err != nil {
			return time.Time{}, fmt.Errorf("waiting for %s to go: %w", path, err)
		}
	}
	return time.Now(), nil
}

func (w *dirWatch) close() { w.events.Close() }
