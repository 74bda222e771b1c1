package ebpf

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/sockwatch/sockwatch/internal/sys"
)

// What is missing when nothing can be traced: the Cause of an UnsupportedError.
var (
	ErrPermission   = errors.New("tracing needs CAP_BPF and CAP_PERFMON, for the tracepoint hooks CAP_DAC_READ_SEARCH too, in the initial user namespace")
	ErrPIDNamespace = errors.New("tracing needs the initial pid namespace (in a container: hostPID), where the pids are the kernel's own")
	ErrNoBTF        = errors.New("tracing needs the kernel's type information: /sys/kernel/btf/vmlinux, from CONFIG_DEBUG_INFO_BTF")
	ErrLockdown     = errors.New("the kernel is locked down, and lets no program read its memory: lockdown=confidentiality, kernel_lockdown(7)")
)

// Refusal is why a set of hooks is not in use.
type Refusal struct {
	Hooks Hooks
	Err   error // what the kernel said, with the step at which it did
}

func (r Refusal) String() string { return fmt.Sprintf("%s: %s", r.Hooks, r.Err) }

// UnsupportedError says that nothing can be traced here, and why. errors.Is finds the Cause, and the Err of each Refusal.
type UnsupportedError struct {
	Cause    error     // one of the errors above, or nil: what is missing was not found out
	Refusals []Refusal // one for each set of hooks that was tried
}

func (e *UnsupportedError) Error() string {
	parts := make([]string, 0, 1+len(e.Refusals))
	if e.Cause != nil {
		parts = append(parts, e.Cause.Error())
	}
	for _, r := range e.Refusals {
		parts = append(parts, r.String())
	}
	return "cannot trace binds: " + strings.Join(parts, "; ")
}

// Unwrap returns the Cause and each Refusal's Err.
func (e *UnsupportedError) Unwrap() []error {
	var errs []error
	if e.Cause != nil {
		errs = append(errs, e.Cause)
	}
	for _, r := range e.Refusals {
		errs = append(errs, r.Err)
	}
	return errs
}

// Inode numbers of the initial namespaces, include/linux/proc_ns.h.
const (
	initialUserNS = 0xeffffffd
	initialPIDNS  = 0xeffffffc
)

func checkPIDNamespace() error {
	info, err := os.Stat("/proc/self/ns/pid")
	if err != nil {
		return err
	}
	if inodeOf(info) != initialPIDNS {
		return ErrPIDNamespace
	}
	return nil
}

func inodeOf(info fs.FileInfo) uint64 {
	return info.Sys().(*syscall.Stat_t).Ino // always that on Linux
}

// missing finds out what a machine lacks on which nothing could be loaded. It is nil when it is none of what is known.
func missing() error {
	if _, err := os.Stat("/sys/kernel/btf/vmlinux"); errors.Is(err, fs.ErrNotExist) {
		return ErrNoBTF
	}
	if !privileged() {
		return ErrPermission
	}
	// One of the words is in brackets.
	if b, err := os.ReadFile("/sys/kernel/security/lockdown"); err == nil && strings.Contains(string(b), "[confidentiality]") {
		return ErrLockdown
	}
	return nil
}

// privileged tells whether the process has what capabilities(7) says tracing needs.
func privileged() bool {
	if info, err := os.Stat("/proc/self/ns/user"); err == nil && inodeOf(info) != initialUserNS {
		return false
	}
	has := func(capability int) bool {
		yes, err := sys.HasCapability(capability)
		return yes && err == nil
	}
	return has(unix.CAP_SYS_ADMIN) || has(unix.CAP_BPF) && has(unix.CAP_PERFMON)
}
