package reap

import (
	"errors"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sockwatch/sockwatch/internal/sys"
)

// Directory stands for a directory as long as a File of it is open. It is comparable: two Files of one directory have the same.
type Directory struct{ id sys.DirID }

// Directory is the File's.
func (f *File) Directory() Directory { return Directory{f.dir.id} }

// Unfinished is a removal with NameOnly whose Result says Elsewhere.
type Unfinished struct {
	File *File
	// Options gives the options for each other name that the File has: a base name in its directory.
	Options func(name string) RemoveOptions
	Result  Result
}

// RemoveElsewhere finishes removals of Files, of one directory, that may have other names there. The directory is listed once for them all. It
// gives their Results in the same order.
func RemoveElsewhere(unfinished []Unfinished) []Result {
	results := make([]Result, len(unfinished))
	if len(unfinished) == 0 {
		return results
	}
	start := time.Now()
	pr, proberErr := newProber()
	if proberErr == nil {
		defer pr.close()
	}
	names, err := unfinished[0].File.dir.namesOf(unfinished)
	for i, u := range unfinished {
		if proberErr != nil {
			results[i] = refusal("make the probe's socket", proberErr)
			results[i].DryRun = u.Result.DryRun
		} else {
			u.Result.Elsewhere = false
			results[i] = u.File.removeOthers(pr, names[u.File], err, u.Result, u.Options)
		}
		results[i].Took = u.Result.Took
		results[i].finish(u.File, start)
	}
	return results
}

// namesOf is otherNames of many.
func (d *dir) namesOf(unfinished []Unfinished) (map[*File][]string, error) {
	byInode := make(map[uint64][]*File, len(unfinished))
	for _, u := range unfinished {
		byInode[u.File.id.ino] = append(byInode[u.File.id.ino], u.File)
	}
	names := map[*File][]string{}
	note := func(ino uint64, name string) {
		for _, f := range byInode[ino] {
			if name != f.name() {
				names[f] = append(names[f], name)
			}
		}
	}
	merged := isOverlay(d.fd) // there the number in the listing can be another than the one in stat(2)
	err := d.list(func(e sys.Dirent) bool {
		if e.Type != unix.DT_SOCK && e.Type != unix.DT_UNKNOWN {
			return true
		}
		ino := e.Ino
		if merged {
			st, err := sys.Lstatat(d.fd, string(e.Name))
			if err != nil {
				return true // gone again
			}
			ino = st.Ino
		}
		if len(byInode[ino]) > 0 {
			note(ino, string(e.Name))
		}
		return true
	})
	if errors.Is(err, unix.ENOENT) { // the directory itself is gone
		err = nil
	}
	return names, err
}
