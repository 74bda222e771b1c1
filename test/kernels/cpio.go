package main

import (
	"bytes"
	"fmt"
	"maps"
	"os"
	"path"
	"slices"
	"strings"
)

// archive is what goes into an initramfs, by absolute path.
type archive map[string]member

type member struct {
	mode    uint32 // of stat(2), with the type
	content []byte
}

func (a archive) program(name string, content []byte) { a.add(name, 0o100755, content) }
func (a archive) file(name string, content []byte)    { a.add(name, 0o100644, content) }
func (a archive) dir(name string)                     { a.add(name, 0o040755, nil) }

// add takes a member in, with the directories above it.
func (a archive) add(name string, mode uint32, content []byte) {
	if parent := path.Dir(name); parent != "/" {
		if _, ok := a[parent]; !ok {
			a.dir(parent)
		}
	}
	a[name] = member{mode, content}
}

// copyFile takes a file of this machine to the same place, or another.
func (a archive) copyFile(from, to string) error {
	content, err := os.ReadFile(from)
	if err == nil {
		a.program(to, content)
	}
	return err
}

// write makes the archive in the format "newc", everything of root's. The kernel's documentation has it in
// driver-api/early-userspace/buffer-format. It is not compressed: to unpack it would take the guest longer than to load it.
func (a archive) write(to string) error {
	var b bytes.Buffer
	pad := func() { b.Write(make([]byte, -b.Len()&3)) }
	entry := func(inode int, name string, m member) {
		links := 1
		// Magic, inode, mode, uid, gid, links, time, size, four device numbers, length of the name, checksum.
		fmt.Fprintf(&b, "070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%s\x00",
			inode, m.mode, 0, 0, links, 0, len(m.content), 0, 0, 0, 0, len(name)+1, 0, name)
		pad()
		b.Write(m.content)
		pad()
	}
	// Sorted, a directory comes before what is in it.
	for i, name := range slices.Sorted(maps.Keys(a)) {
		entry(i+1, strings.TrimPrefix(name, "/"), a[name])
	}
	entry(0, "TRAILER!!!", member{})
	return os.WriteFile(to, b.Bytes(), 0o600)
}
