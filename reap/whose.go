package reap

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/sockwatch/sockwatch/pidfd"
)

// Whose tells, for each of the files, which of the processes has the socket open that is bound to it, by the rules of
// HoldersOf: the index of the first one that has, or -1. It reads the kernel's table once, however many files there are,
// and no more of the processes than it takes: put the likely ones first.
//
// Processes that have ended, may not be read or were closed meanwhile are passed over. With an error, which is about anything else, -1 means
// nothing.
func Whose(files []*File, processes []*pidfd.Process) ([]int, error) {
	whose := make([]int, len(files))
	for i := range whose {
		whose[i] = -1
	}
	if len(files) == 0 || len(processes) == 0 {
		return whose, nil
	}
	s, err := newHolderSearch(files)
	if err != nil {
		return whose, fmt.Errorf("find the process of a socket: %w", err)
	}
	var failed error
	left := len(files)
	for n, p := range processes {
		if left == 0 {
			break
		}
		pid, err := runningPID(p)
		if err == nil {
			err = checkRead(p, pid, s.look(pid))
		}
		if err != nil && !errors.Is(err, pidfd.ErrExited) && !errors.Is(err, fs.ErrPermission) && !errors.Is(err, os.ErrClosed) {
			failed = err
		}
		for i := range files {
			if err == nil && whose[i] < 0 && len(s.holders(i)) > 0 {
				whose[i] = n
				left--
			}
			s.files[i].bound, s.files[i].connected = nil, nil
		}
	}
	return whose, failed
}
