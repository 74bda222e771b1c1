package proc

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// Cgroup returns the path of a process's cgroup in cgroup2, as /proc/PID/cgroup has it: from the root of our cgroup namespace,
// cgroups(7). It is "" for a process that is in none.
func (p FS) Cgroup(pid int) (string, error) {
	b, err := p.read(pid, "cgroup")
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(string(b)) {
		if path, ok := strings.CutPrefix(strings.TrimSuffix(line, "\n"), "0::"); ok {
			return path, nil
		}
	}
	return "", nil
}

// Cgroups finds cgroups by their ids, also when the process is gone that was in one. The zero value is ready for use, by one
// goroutine.
type Cgroups struct {
	Root  string // where cgroup2 is mounted; "" is /sys/fs/cgroup, or unified in it
	known map[uint64]string
}

// Path returns the path of the cgroup with an id, from the root of cgroup2, and "" when there is none such.
func (c *Cgroups) Path(id uint64) string {
	if path, ok := c.known[id]; ok {
		return path
	}
	root := c.Root
	if root == "" {
		root = cgroup2Root()
	}
	c.known = map[uint64]string{}
	_ = filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.IsDir() {
			return nil //nolint:nilerr // it is gone, or is not to be seen
		}
		info, err := os.Lstat(path)
		if err != nil {
			return nil //nolint:nilerr // as above
		}
		c.known[info.Sys().(*syscall.Stat_t).Ino] = "/" + strings.TrimPrefix(strings.TrimPrefix(path, root), "/")
		return nil
	})
	if _, ok := c.known[id]; !ok {
		c.known[id] = "" // it is gone, and ids are not given out again
	}
	return c.known[id]
}

// cgroup2Root is where systemd mounts cgroup2: alone, or beside the controllers of version 1.
func cgroup2Root() string {
	const alone, beside = "/sys/fs/cgroup", "/sys/fs/cgroup/unified"
	var st unix.Statfs_t
	if err := unix.Statfs(beside, &st); err == nil && st.Type == unix.CGROUP2_SUPER_MAGIC {
		return beside
	}
	return alone
}
