package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// work is what a process has done since it began, and what the BPF programs did that it holds.
type work struct {
	cpu      int64 // nanoseconds of all its threads
	switches int64
	programs int64 // nanoseconds; they count while BPF_ENABLE_STATS is on, bpf(2)
}

func workOf(pid int) (w work, err error) {
	if w.switches, err = switches(pid); err != nil {
		return w, err
	}
	threads, err := filepath.Glob(filepath.Join(procDir(pid), "task", "*", "schedstat"))
	if err != nil {
		return w, err
	}
	for _, path := range threads {
		text, err := os.ReadFile(path)
		if err != nil {
			return w, err
		}
		took, _, _ := strings.Cut(string(text), " ")
		ns, err := strconv.ParseInt(took, 10, 64)
		if err != nil {
			return w, fmt.Errorf("%s: %w", path, err)
		}
		w.cpu += ns
	}
	w.programs, err = programsTime(pid)
	return w, err
}

func (w work) since(before work) work {
	return work{w.cpu - before.cpu, w.switches - before.switches, w.programs - before.programs}
}

// programsTime is how long the BPF programs have run that a process has descriptors of.
func programsTime(pid int) (sum int64, err error) {
	descriptors, err := os.ReadDir(filepath.Join(procDir(pid), "fd"))
	if err != nil {
		return 0, err
	}
	for _, d := range descriptors {
		if to, err := os.Readlink(filepath.Join(procDir(pid), "fd", d.Name())); err != nil || to != "anon_inode:bpf-prog" {
			continue // closed meanwhile, or something else
		}
		ns, err := procField(filepath.Join(procDir(pid), "fdinfo", d.Name()), "run_time_ns:")
		if err != nil {
			return 0, err
		}
		sum += ns
	}
	return sum, nil
}

// switches counts how often threads of a process went to sleep, or had to make room for others.
func switches(pid int) (sum int64, err error) {
	threads, err := filepath.Glob(filepath.Join(procDir(pid), "task", "*", "status"))
	if err != nil {
		return 0, err
	}
	for _, path := range threads {
		for _, name := range []string{"voluntary_ctxt_switches:", "nonvoluntary_ctxt_switches:"} {
			n, err := procField(path, name)
			if err != nil {
				return 0, err
			}
			sum += n
		}
	}
	return sum, nil
}

// awaitRest returns when all threads of a process sleep, and have not woken up for a moment: it may still be at work on its own start.
// What the rest of the machine does may leave it no rest; then it returns after a second.
func awaitRest(ctx context.Context, pid int) error {
	const looks = int(time.Second / look)
	before := int64(-1)
	for range looks {
		now, err := switches(pid)
		if err == nil && now == before && asleep(pid) {
			return nil
		}
		before = now
		if err := wait(ctx, look); err != nil {
			return err
		}
	}
	return nil
}

// asleep says whether no thread of a process runs, or waits for a processor or a disk.
func asleep(pid int) bool {
	threads, err := filepath.Glob(filepath.Join(procDir(pid), "task", "*", "stat"))
	if err != nil || len(threads) == 0 {
		return false
	}
	for _, path := range threads {
		text, err := os.ReadFile(path)
		if err != nil {
			return false
		}
		_, state, _ := strings.Cut(string(text), ") ") // proc_pid_stat(5); a name with that in it is none of ours
		if !strings.HasPrefix(state, "S") {
			return false
		}
	}
	return true
}

func procDir(pid int) string { return filepath.Join("/proc", strconv.Itoa(pid)) }

// procField is the number behind a name in a file of /proc that has one in each line.
func procField(path, name string) (int64, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(text)) {
		if fields := strings.Fields(line); len(fields) > 1 && fields[0] == name {
			return strconv.ParseInt(fields[1], 10, 64)
		}
	}
	return 0, fmt.Errorf("%s has no %s", path, name)
}
