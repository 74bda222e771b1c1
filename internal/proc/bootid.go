package proc

import (
	"errors"
	"os"
	"strings"
	"sync"
)

var bootIDs sync.Map // FS to string

// BootID returns the UUID that the kernel made up when it booted: /proc/sys/kernel/random/boot_id, proc_sys_kernel(5).
// It is read once for each FS.
func (p FS) BootID() (string, error) {
	if id, ok := bootIDs.Load(p); ok {
		return id.(string), nil
	}
	path := p.path() + "/sys/kernel/random/boot_id"
	b, err := os.ReadFile(path)
	if err != nil {
		return "", err
	}
	id, err := parseBootID(string(b))
	if err != nil {
		return "", parseError(path, err)
	}
	bootIDs.Store(p, id)
	return id, nil
}

var errBootID = errors.New("not a UUID")

func parseBootID(s string) (string, error) {
	id := strings.TrimSuffix(s, "\n")
	if len(id) != len("01234567-89ab-cdef-0123-456789abcdef") || strings.Trim(id, "0123456789abcdef-") != "" {
		return "", errBootID
	}
	return id, nil
}
