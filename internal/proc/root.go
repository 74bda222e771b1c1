package proc

import "os"

// SameRoot tells whether a path means to a process what it means to this one: it has the same root directory, in the same mount
// namespace. In a namespace of its own the directory can be the same one, and what is mounted below another.
//
// It needs PTRACE_MODE_READ over the process: fs.ErrPermission else; fs.ErrNotExist when it is gone.
func (p FS) SameRoot(pid int) (bool, error) {
	same := true
	for _, name := range []string{"root", "ns/mnt"} {
		ours, err := os.Stat(p.path() + "/self/" + name)
		if err != nil {
			return false, err
		}
		theirs, err := os.Stat(p.pidPath(pid, name))
		if err != nil {
			return false, checkGone(err)
		}
		same = same && os.SameFile(ours, theirs)
	}
	return same, nil
}
