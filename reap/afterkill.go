package reap

import (
	"context"
	"path/filepath"
	"time"
)

// Ladder is how long after a process's end a sock-file that still probes alive is probed again. That the process is gone
// does not prove its socket dead: io_uring lets go of one up to 60 ms later, the garbage collector of descriptors that
// are in flight some 8 ms.
var Ladder = [...]time.Duration{1 * time.Millisecond, 5 * time.Millisecond, 20 * time.Millisecond, 60 * time.Millisecond, 200 * time.Millisecond}

// Target says what a dead process may have bound. Every field may be empty.
type Target struct {
	Paths []string // named by who knows; need not exist
	Files []*File  // taken by Held before the kill; they stay the caller's to Close

	// What fits a convention is looked for in every bindspace.
	Name        string
	PID         int
	Bindspaces  []string
	Conventions []Convention
}

// AfterKill removes what a process that somebody killed has left behind: the hook for the end of somebody else's hard
// kill. Call it whatever happened before, whether the kill was needed or not, and as often as you like.
//
// It never panics, returns no error that could stop the caller's own cleaning up, and gives one Result for each path,
// file and guess of a convention that exists. What is alive is kept. If the process is still there, so are its files.
//
// It takes 200 ms at the most beyond the work itself, and only when a file is alive: see Ladder. Then the Reason says whether
// a process that can be named holds it.
func AfterKill(t Target) []Result {
	files, opened, results := t.open()
	defer func() {
		for _, f := range opened {
			_ = f.Close()
		}
	}()

	start := time.Now()
	last := make([]Result, len(files))
	waiting := make([]int, 0, len(files))
	for i := range files {
		waiting = append(waiting, i)
	}
	for step := 0; ; step++ {
		alive := waiting[:0]
		for _, i := range waiting {
			if last[i] = files[i].Remove(RemoveOptions{}); last[i].Outcome == OutcomeAlive {
				alive = append(alive, i)
			}
		}
		waiting = alive
		if len(waiting) == 0 || step == len(Ladder) {
			break
		}
		// The kernel reports the end of a process, and nothing when the last reference to its socket goes.
		time.Sleep(time.Until(start.Add(Ladder[step]))) //nolint:forbidigo // see above: there is no event to wait for
	}
	nameHolders(files, last, waiting)
	return append(results, last...)
}

// open gives the files of the target, each inode once, which of them it has opened, and the Results of those that cannot be
// opened.
func (t Target) open() (files, opened []*File, results []Result) {
	known := map[ID]bool{}
	for _, f := range t.Files {
		if f != nil && !known[f.ID()] {
			known[f.ID()] = true
			files = append(files, f)
		}
	}
	add := func(path string, guess bool) {
		f, err := Open(path)
		switch {
		case err != nil && !guess:
			results = append(results, Unopened(path, err))
		case err != nil:
		case known[f.ID()]:
			_ = f.Close()
		default:
			known[f.ID()] = true
			files, opened = append(files, f), append(opened, f)
		}
	}
	for _, path := range t.Paths {
		add(path, false)
	}
	for _, dir := range t.Bindspaces {
		for _, c := range t.Conventions {
			if base, err := c.Build(t.Name, t.PID); err == nil { // without a name or a pid there is nothing to guess
				add(filepath.Join(dir, base), true)
			}
		}
	}
	return files, opened, results
}

// nameHolders gives the Results of files that stayed alive their Reason.
func nameHolders(files []*File, results []Result, alive []int) {
	if len(alive) == 0 {
		return
	}
	held := make([]*File, len(alive))
	for k, i := range alive {
		held[k] = files[i]
	}
	holders, err := HoldersOf(context.Background(), held)
	for k, i := range alive {
		results[i].Reason = ReasonHolderNotVisible
		if err == nil && len(holders[k]) > 0 {
			results[i].Reason = ReasonHolder
		}
	}
}
