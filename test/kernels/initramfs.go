package main

import (
	"bytes"
	"context"
	_ "embed"
	"fmt"
	"io/fs"
	"os/exec"
	"path/filepath"
	"strings"
)

//go:embed init.sh
var initScript []byte

// programs are what tests start besides themselves and what busybox has.
var programs = []string{
	"chattr", "debugfs", "mkfs.ext4", "mount", "strace", "umount",
	"dbus-daemon", "haproxy", "nginx", "php-fpm8.2", "redis-server", "ssh-agent", "tmux",
}

const passwd = `root:x:0:0:root:/root:/bin/sh
www-data:x:33:33:www-data:/nonexistent:/bin/false
nobody:x:65534:65534:nobody:/nonexistent:/bin/false
`

const group = `root:x:0:
www-data:x:33:
nogroup:x:65534:
`

// initramfs makes the root filesystem of a guest.
func initramfs(ctx context.Context, k kernel, suites []suite, env []string, args, to string) error {
	a := archive{}
	a.program("/init", initScript)
	busybox, err := exec.LookPath("busybox")
	if err != nil {
		return fmt.Errorf("%w; the package busybox-static has it", err)
	}
	if err := a.copyFile(busybox, "/bin/busybox"); err != nil {
		return err
	}
	for _, dir := range []string{
		"/dev", "/dev/pts", "/dev/shm", "/proc", "/root", "/run", "/sbin", "/sys", "/tmp", "/usr/bin", "/usr/sbin", "/var/tmp",
	} {
		a.dir(dir)
	}
	a.file("/etc/passwd", []byte(passwd))
	a.file("/etc/group", []byte(group))
	for _, name := range programs {
		if err := a.withLibraries(ctx, name); err != nil {
			return err
		}
	}
	const locale = "/usr/lib/locale/C.utf8" // for tmux
	if err := a.copyTree(locale, locale); err != nil {
		return err
	}

	order, contents, err := k.modules(ctx)
	if err != nil {
		return err
	}
	for i, name := range order {
		a.file(fmt.Sprintf("/modules/%02d-%s.ko", i, name), contents[name]) // for a shell's *, which sorts
	}

	a.file("/environment", []byte(strings.Join(env, "\n")+"\n"))
	var list bytes.Buffer
	for _, s := range suites {
		if s.binary == "" {
			continue
		}
		fmt.Fprintf(&list, "%s %s", s.name, args)
		if s.only != "" {
			fmt.Fprintf(&list, " -test.run=%s", s.only)
		}
		if s.skip != "" {
			fmt.Fprintf(&list, " -test.skip=%s", s.skip)
		}
		list.WriteByte('\n')
		if err := a.copyFile(s.binary, "/src/"+s.name+"/test"); err != nil {
			return err
		}
		if err := a.copyTree(filepath.Join(s.dir, "testdata"), "/src/"+s.name+"/testdata"); err != nil {
			return err
		}
	}
	a.file("/packages", list.Bytes())
	return a.write(to)
}

// withLibraries takes a program of this machine to the same place, with the libraries that ldd(1) tells of. One that is not
// installed is left out: tests that need it skip and say so.
func (a archive) withLibraries(ctx context.Context, name string) error {
	path, err := exec.LookPath(name)
	if err != nil {
		path = "/usr/sbin/" + name // not in everybody's PATH
		if !exists(path) {
			return nil
		}
	}
	if err := a.copyFile(path, "/usr/sbin/"+name); err != nil {
		return err
	}
	out, err := output(exec.CommandContext(ctx, "ldd", path))
	if err != nil {
		return err
	}
	for word := range strings.FieldsSeq(out) {
		if strings.HasPrefix(word, "/") {
			if err := a.copyFile(word, word); err != nil {
				return err
			}
		}
	}
	return nil
}

// copyTree takes a directory, if it is there.
func (a archive) copyTree(from, to string) error {
	if !exists(from) {
		return nil
	}
	return filepath.WalkDir(from, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		return a.copyFile(path, to+strings.TrimPrefix(path, from))
	})
}
