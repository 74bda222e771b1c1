package proc

import (
	"os"
	"strconv"
	"strings"
)

// Sysctl reads a kernel parameter that is a number, by its path below /proc/sys: proc_sys(5). Without the part of the kernel that
// it belongs to it is fs.ErrNotExist.
func (p FS) Sysctl(name string) (int, error) {
	path := p.path() + "/sys/" + name
	b, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	n, err := strconv.Atoi(strings.TrimSpace(string(b)))
	return n, parseError(path, err)
}
