package proc

import (
	"errors"
	"io/fs"
	"os"
	"strconv"
)

// Children returns the ids of the processes whose parent is pid, zombies included, in no order. It takes them from
// /proc/PID/task/*/children (proc_tid_children(5)) or, without CONFIG_PROC_CHILDREN, from the parents of all processes.
//
// Neither sees one moment: of children that come and go, or change their parent, while it reads, some may be missing.
// List again until nothing is new.
func (p FS) Children(pid int) ([]int, error) {
	var children []int
	threads, readable := 0, 0
	for tid, err := range numbers(p.pidPath(pid, "task")) {
		if err != nil {
			return nil, err
		}
		threads++
		path := p.pidPath(pid, "task/"+strconv.Itoa(tid)+"/children")
		b, err := os.ReadFile(path)
		err = checkGone(err)
		if errors.Is(err, fs.ErrNotExist) {
			continue // the thread ended, or the kernel has no such file
		}
		if err != nil {
			return nil, err
		}
		readable++
		some, err := parseInts(b)
		if err != nil {
			return nil, parseError(path, err)
		}
		children = append(children, some...)
	}
	if threads > 0 && readable == 0 {
		return p.childrenByParent(pid)
	}
	return children, nil
}

func (p FS) childrenByParent(parent int) ([]int, error) {
	var children []int
	for pid, err := range p.PIDs() {
		if err != nil {
			return nil, err
		}
		s, err := p.Stat(pid)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		if s.PPID == parent {
			children = append(children, pid)
		}
	}
	return children, nil
}
