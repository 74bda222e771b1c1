package sys

import (
	"bytes"
	"encoding/binary"
	"errors"
	"sync"

	"golang.org/x/sys/unix"
)

// Dirent is one entry of a directory.
type Dirent struct {
	Ino  uint64
	Type uint8 // DT_SOCK and so on, DT_UNKNOWN where the filesystem does not say
	Name []byte
}

var errDirent = errors.New("malformed directory entry")

// direntHeader is the length of linux_dirent64 before its name: inode, offset, length and type.
const direntHeader = 8 + 8 + 2 + 1

// blocks are what directories are read into. Every sock-file that somebody else removed first costs a look at its
// directory, and there can be thousands at once.
var blocks = sync.Pool{New: func() any { return new([32 << 10]byte) }}

// ReadDir reads a directory from where its descriptor stands and calls yield for each entry, "." and ".." apart,
// until that returns false. Name is valid during the call only: a directory of any size takes the memory of one block.
func ReadDir(fd int, yield func(Dirent) bool) error {
	block := blocks.Get().(*[32 << 10]byte)
	defer blocks.Put(block)
	buf := block[:]
	for {
		n, err := callInt("getdents64", func() (int, error) { return unix.Getdents(fd, buf) })
		if err != nil || n == 0 {
			return err
		}
		for b := buf[:n]; len(b) > 0; {
			if len(b) < direntHeader {
				return errDirent
			}
			size := int(binary.NativeEndian.Uint16(b[16:]))
			if size < direntHeader || size > len(b) {
				return errDirent
			}
			e := Dirent{Ino: binary.NativeEndian.Uint64(b), Type: b[18], Name: b[direntHeader:size]}
			if i := bytes.IndexByte(e.Name, 0); i >= 0 {
				e.Name = e.Name[:i]
			}
			b = b[size:]
			if s := string(e.Name); s == "." || s == ".." {
				continue
			}
			if !yield(e) {
				return nil
			}
		}
	}
}
