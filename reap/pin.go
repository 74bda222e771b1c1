package reap

import (
	"github.com/sockwatch/sockwatch/internal/sys"
)

// pin is an O_PATH|O_NOFOLLOW descriptor of what had a name, held while deciding and removing. As long as it is open,
// the inode number belongs to this inode.
type pin struct {
	dir  *dir
	name string
	fd   int
	stat sys.Stat // as it was when pinned
}

// pinName pins what has the name now, of whatever type.
func pinName(d *dir, name string) (pin, error) {
	fd, err := sys.OpenPin(d.fd, name)
	if err != nil {
		return pin{}, err
	}
	st, err := sys.Fstat(fd)
	if err != nil {
		_ = sys.Close(fd)
		return pin{}, err
	}
	return pin{dir: d, name: name, fd: fd, stat: st}, nil
}

func (p pin) unpin() { _ = sys.Close(p.fd) }

// named tells whether name is an entry of this inode, now.
func (p pin) named(name string) (bool, error) {
	st, err := sys.Lstatat(p.dir.fd, name)
	return err == nil && st.SameInode(p.stat), err
}
