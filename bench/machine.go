package main

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"
)

// filesystems are names of those that sock-files are likely to be on, by their magic numbers, statfs(2).
var filesystems = map[int64]string{
	unix.EXT4_SUPER_MAGIC: "ext4", unix.TMPFS_MAGIC: "tmpfs", unix.XFS_SUPER_MAGIC: "xfs", unix.BTRFS_SUPER_MAGIC: "btrfs",
	unix.OVERLAYFS_SUPER_MAGIC: "overlay",
}

// machine says what the times are those of, with the filesystem of dir.
func machine(ctx context.Context, dir string) (string, error) {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return "", err
	}
	on, err := filesystem(dir)
	if err != nil {
		return "", err
	}
	compiler, err := exec.CommandContext(ctx, "gcc", "-dumpfullversion").Output()
	if err != nil {
		return "", err
	}
	model, err := processor()
	if err != nil {
		return "", err
	}
	release, _, _ := strings.Cut(unix.ByteSliceToString(u.Release[:]), "-")
	return fmt.Sprintf("Linux %s, %d CPUs (%s), %s, gcc %s, sock-files on %s", release, runtime.NumCPU(), model,
		strings.Replace(runtime.Version(), "go", "Go ", 1), strings.TrimSpace(string(compiler)), on), nil
}

// filesystem is the name of the one that a directory is on.
func filesystem(dir string) (string, error) {
	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); err != nil {
		return "", &os.PathError{Op: "statfs", Path: dir, Err: err}
	}
	if name, known := filesystems[int64(fs.Type)]; known {
		return name, nil
	}
	return fmt.Sprintf("a filesystem of type %#x", fs.Type), nil
}

// processor is what the processor calls itself.
func processor() (string, error) {
	f, err := os.Open("/proc/cpuinfo")
	if err != nil {
		return "", err
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if name, value, _ := strings.Cut(lines.Text(), ":"); strings.TrimSpace(name) == "model name" {
			return strings.TrimSpace(value), nil
		}
	}
	return runtime.GOARCH, nil
}

// loadAverage is how many wanted a processor in the last minute.
func loadAverage() (string, error) {
	text, err := os.ReadFile("/proc/loadavg")
	load, _, _ := strings.Cut(string(text), " ")
	return load, err
}
