package testutil

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// Feature is something a test needs of the machine or the user it runs as. What
// matters is found by trying, not by the kernel's version.
type Feature struct {
	name  string
	check func() error           // nil when present
	place func() (string, error) // of a filesystem: a writable directory on it
}

// String returns the name that SOCKWATCH_TEST_REQUIRE knows the feature by.
func (f Feature) String() string { return f.name }

// The features that tests can require.
var (
	// Root is effective uid 0 in the initial user namespace, or one like it.
	Root = Feature{name: "root", check: checkRoot}

	// BPF is the right to load tracing programs, and the kernel's type
	// information (CONFIG_DEBUG_INFO_BTF).
	BPF = Feature{name: "bpf", check: sync.OnceValue(checkBPF)}

	// Pidfs is a kernel whose pidfds are files of pidfs, with inode numbers that
	// are never used twice: Linux 6.9.
	Pidfs = Feature{name: "pidfs", check: sync.OnceValue(checkPidfs)}

	// InfoExit is PIDFD_GET_INFO telling how a reaped process ended: Linux 6.15.
	InfoExit = Feature{name: "infoexit", check: sync.OnceValue(checkInfoExit)}

	// UserNS is the right to make a user namespace with a root user in it.
	UserNS = Feature{name: "userns", check: sync.OnceValue(checkUserNS)}

	// Overlay is the right to mount overlayfs in a mount namespace of one's own.
	Overlay = Feature{name: "overlay", check: sync.OnceValue(checkOverlay)}

	// Ext4 is a writable directory on ext4: see [Dir].
	Ext4 = onFilesystem("ext4", unix.EXT4_SUPER_MAGIC)

	// Tmpfs is a writable directory on tmpfs: see [Dir].
	Tmpfs = onFilesystem("tmpfs", unix.TMPFS_MAGIC)
)

// programs is the name that stands for every [Program].
const programs = "programs"

// Program is the presence of an executable of that name in $PATH. In
// SOCKWATCH_TEST_REQUIRE "programs" names them all.
func Program(name string) Feature {
	return Feature{name: programs, check: func() error {
		_, err := exec.LookPath(name)
		return err
	}}
}

// descriptors is the name that stands for every [Descriptors].
const descriptors = "descriptors"

// Descriptors is a limit of at least n open descriptors: RLIMIT_NOFILE, getrlimit(2). In SOCKWATCH_TEST_REQUIRE
// "descriptors" stands for any number.
func Descriptors(n uint64) Feature {
	return Feature{name: descriptors, check: func() error {
		var limit unix.Rlimit
		if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
			return err
		}
		if limit.Cur < n { // Go has raised it to the hard limit
			return fmt.Errorf("at most %d may be open, and %d are wanted", limit.Cur, n)
		}
		return nil
	}}
}

// trials are the names that [Tried] can be given.
var trials = []string{"fexit", "ia32", "iouring"}

// Tried is a feature that matters to one package alone, which knows how to try it: "fexit" is the right to attach programs to
// the ends of the kernel's functions, "ia32" a kernel that runs 32-bit programs of x86, "iouring" one whose io_uring can bind.
func Tried(name string, try func() error) Feature {
	return Feature{name: name, check: try}
}

// requireEnv lists the features without which a test fails instead of skipping.
const requireEnv = "SOCKWATCH_TEST_REQUIRE"

// Require skips the test with the reason unless every feature is there. Where
// SOCKWATCH_TEST_REQUIRE names the missing one, the test fails instead. It is
// the only way in which a test of this module may skip.
func Require(t testing.TB, features ...Feature) {
	t.Helper()
	for _, f := range features {
		err := f.check()
		if err == nil {
			continue
		}
		if slices.Contains(required(), f.name) {
			t.Fatalf("%s names %s, and it is missing: %v", requireEnv, f.name, err)
		}
		t.Skipf("needs %s: %v", f.name, err)
	}
}

func required() []string {
	return strings.FieldsFunc(os.Getenv(requireEnv), func(r rune) bool { return r == ',' || r == ' ' })
}

// checkRequired finds the misspelt name that would require nothing.
func checkRequired() error {
	known := append([]string{programs, descriptors}, trials...)
	for _, f := range []Feature{Root, BPF, Pidfs, InfoExit, UserNS, Overlay, Ext4, Tmpfs} {
		known = append(known, f.name)
	}
	for _, name := range required() {
		if !slices.Contains(known, name) {
			return fmt.Errorf("%s: no feature is called %q; there are %s", requireEnv, name, strings.Join(known, ", "))
		}
	}
	return nil
}

func checkRoot() error {
	if uid := os.Geteuid(); uid != 0 {
		return fmt.Errorf("running as uid %d", uid)
	}
	return nil
}

func checkBPF() error {
	// Of the capabilities either the old one or the two of Linux 5.8,
	// capabilities(7).
	effective, err := effectiveCapabilities()
	if err != nil {
		return err
	}
	has := func(capability int) bool { return effective&(1<<capability) != 0 }
	if !has(unix.CAP_SYS_ADMIN) && (!has(unix.CAP_BPF) || !has(unix.CAP_PERFMON)) {
		return errors.New("neither CAP_SYS_ADMIN nor CAP_BPF with CAP_PERFMON")
	}
	_, err = os.Stat("/sys/kernel/btf/vmlinux")
	return err
}

func effectiveCapabilities() (uint64, error) {
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(status)) {
		if hex, ok := strings.CutPrefix(line, "CapEff:"); ok {
			return strconv.ParseUint(strings.TrimSpace(hex), 16, 64)
		}
	}
	return 0, errors.New("/proc/self/status has no CapEff")
}

func checkPidfs() error {
	fd, err := unix.PidfdOpen(os.Getpid(), 0)
	if err != nil {
		return os.NewSyscallError("pidfd_open", err)
	}
	defer unix.Close(fd)
	var st unix.Statfs_t
	if err := unix.Fstatfs(fd, &st); err != nil {
		return os.NewSyscallError("fstatfs", err)
	}
	if uint32(st.Type) != unix.PID_FS_MAGIC {
		return errors.New("this kernel's pidfds are anonymous inodes")
	}
	return nil
}

func checkInfoExit() error {
	fd := -1
	child, err := exitingChild(&syscall.SysProcAttr{PidFD: &fd})
	if err != nil {
		return err
	}
	if fd < 0 {
		return errors.Join(errors.New("no pidfd of a child"), child.Wait())
	}
	defer unix.Close(fd)
	if err := child.Wait(); err != nil {
		return err
	}
	// Linux 6.13 and 6.14 know the ioctl but not the flag, and say ESRCH.
	info := unix.PidfdInfo{Mask: unix.PIDFD_INFO_EXIT}
	if err := unix.IoctlPidfdInfo(fd, &info); err != nil {
		return os.NewSyscallError("PIDFD_GET_INFO", err)
	}
	if info.Mask&unix.PIDFD_INFO_EXIT == 0 {
		return errors.New("PIDFD_GET_INFO does not tell how a process ended")
	}
	return nil
}

func checkUserNS() error {
	child, err := exitingChild(&syscall.SysProcAttr{
		Cloneflags:  unix.CLONE_NEWUSER,
		UidMappings: []syscall.SysProcIDMap{{HostID: os.Geteuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{HostID: os.Getegid(), Size: 1}},
	})
	if err != nil {
		return err
	}
	return child.Wait()
}

// exitingChild starts a process that ends by itself.
func exitingChild(attr *syscall.SysProcAttr) (*exec.Cmd, error) {
	cmd, err := self(exitHelper)
	if err != nil {
		return nil, err
	}
	cmd.SysProcAttr = attr
	return cmd, cmd.Start()
}

func checkOverlay() error {
	dir, err := os.MkdirTemp("", "sw")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	// What the child mounts ends with its namespace.
	cmd, err := self(overlayHelper, dir)
	if err != nil {
		return err
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: unix.CLONE_NEWNS}
	if said, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%w: %s", err, strings.TrimSpace(string(said)))
	}
	return nil
}

// mountOverlay is the child of checkOverlay.
func mountOverlay() {
	dir := os.Args[1]
	mount := func(source, target, fstype, options string) {
		if err := unix.Mount(source, target, fstype, 0, options); err != nil {
			fmt.Printf("mounting %s: %v\n", fstype, err)
			os.Exit(1)
		}
	}
	// On a tmpfs, because an overlay cannot have another overlay as its upper.
	mount("tmpfs", dir, "tmpfs", "")
	for _, name := range []string{"/lower", "/upper", "/work", "/merged"} {
		if err := os.Mkdir(dir+name, 0o700); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
	}
	mount("overlay", dir+"/merged", "overlay",
		fmt.Sprintf("lowerdir=%[1]s/lower,upperdir=%[1]s/upper,workdir=%[1]s/work", dir))
}
