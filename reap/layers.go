package reap

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sockwatch/sockwatch/internal/proc"
	"github.com/sockwatch/sockwatch/internal/sys"
)

// layers are the directories that were known as layers of overlays at some moment, and the storage of containers, which
// makes such layers.
//
// They are what the mount tables of all processes say that can be read. What they cannot say: overlays in a mount
// namespace that no process is in or that a pid namespace hides, mounts detached from the tree, a layer that was renamed
// after it was mounted, and what FUSE makes of other directories. Attributes that overlayfs left in the layer itself
// tell of some of these, see include.
type layers struct {
	at time.Time

	inodes   map[inode]bool
	paths    map[string]bool // absolute; false: could not be opened
	relative []string        // as mount tables have them, relative to nobody knows what
	mounts   []proc.Mount    // our own
	doubt    error           // why not all of them could be found
}

// inode is a directory, through whatever mount.
type inode struct {
	major, minor uint32
	ino          uint64
}

func inodeOf(id sys.DirID) inode { return inode{id.Major, id.Minor, id.Ino} }

var known struct {
	sync.Mutex
	layers *layers
}

// knownLayers looks for layers, unless that was done just now. What could not all be found is looked for again the next time: until it can be
// found, nothing is removed that was never seen alive, and the time that takes matters less.
func knownLayers() *layers {
	known.Lock()
	defer known.Unlock()
	if known.layers == nil || known.layers.doubt != nil || time.Since(known.layers.at) >= viewAge {
		known.layers = findLayers()
	}
	return known.layers
}

// storage is where well-known programs keep the layers of containers: from / and, rootless, from $XDG_DATA_HOME.
var storage, rootlessStorage = []string{
	"/var/lib/containerd",
	"/var/lib/containers/storage",
	"/var/lib/docker",
	"/var/lib/rancher/k3s/agent/containerd",
	"/var/lib/rancher/rke2/agent/containerd",
	"/var/snap/docker/common/var-lib-docker",
	"/var/snap/microk8s/common/var/lib/containerd",
}, []string{
	"containerd",
	"containers/storage",
	"docker",
}

// rootlessHome is what $XDG_DATA_HOME is in the home directory where it is not set.
const rootlessHome = ".local/share"

func findLayers() *layers {
	l := &layers{at: time.Now(), inodes: map[inode]bool{}, paths: map[string]bool{}}
	l.doubt = l.findStorage()
	// Where no overlay can be mounted there is nothing to read a hundred mount tables for.
	if b, err := os.ReadFile("/proc/filesystems"); err != nil || bytes.Contains(b, []byte("\toverlay\n")) {
		l.doubt = errors.Join(l.doubt, l.findMounted())
	}
	return l
}

// findStorage skips what is not there.
func (l *layers) findStorage() error {
	data := os.Getenv("XDG_DATA_HOME")
	if !filepath.IsAbs(data) { // to be ignored then, says the XDG Base Directory Specification
		data = filepath.Join(os.Getenv("HOME"), rootlessHome)
	}
	paths := slices.Clone(storage)
	for _, path := range rootlessStorage {
		paths = append(paths, filepath.Join(data, path))
	}
	for _, path := range paths {
		err := l.addInode(sys.OpenDir(unix.AT_FDCWD, path))
		if exhausted(err) {
			return err
		}
		if !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.ENOTDIR) {
			l.paths[path] = err == nil
		}
	}
	return nil
}

// addInode takes over the descriptor, if there is one.
func (l *layers) addInode(fd int, err error) error {
	if err != nil {
		return err
	}
	defer func() { _ = sys.Close(fd) }()
	id, err := sys.StatDir(fd)
	if err == nil {
		l.inodes[inodeOf(id)] = true
	}
	return err
}

// exhausted tells whether an error says nothing about a directory, but that it was not the time to ask.
func exhausted(err error) bool {
	return errors.Is(err, unix.EMFILE) || errors.Is(err, unix.ENFILE) || errors.Is(err, unix.ENOMEM)
}

// findMounted reads the mount tables of all processes, the same one once. Not being allowed to is no error, our own table
// apart.
func (l *layers) findMounted() error {
	own, err := sys.OpenDir(unix.AT_FDCWD, "/")
	if err != nil {
		return err
	}
	defer func() { _ = sys.Close(own) }()
	if err := l.readMounts(0, own); err != nil {
		return err
	}
	table, err := mountTable(0)
	if err != nil {
		return err
	}
	tables := map[string]bool{table: true}
	for pid, err := range proc.FS("").PIDs() {
		if err != nil {
			return err
		}
		table, err := mountTable(pid)
		if err == nil && !tables[table] {
			tables[table] = true
			err = l.readMounts(pid, own)
		}
		switch {
		case errors.Is(err, fs.ErrNotExist), errors.Is(err, unix.ESRCH): // it is gone
		case errors.Is(err, unix.EINVAL): // another user's zombie, which has no mount namespace any more
		case errors.Is(err, fs.ErrPermission):
		case err != nil:
			return err
		}
	}
	return nil
}

// mountTable gives a key for the mount table that the process sees, of the calling thread for pid 0: it is that of a
// mount namespace, as far as it can be reached from a root directory.
func mountTable(pid int) (string, error) {
	of := "/proc/thread-self"
	if pid != 0 {
		of = "/proc/" + strconv.Itoa(pid)
	}
	namespace, err := os.Readlink(of + "/ns/mnt")
	if err == nil {
		var root string
		if root, err = os.Readlink(of + "/root"); err == nil {
			return namespace + root, nil
		}
	}
	if !errors.Is(err, fs.ErrPermission) {
		return "", err
	}
	// Of other users' processes the links are secret, the table is not. The ids of mounts are unique in the kernel.
	for m, err := range proc.FS("").Mounts(pid) {
		return strconv.FormatUint(m.ID, 10), err
	}
	return "", nil
}

// readMounts finds the layers of the overlays in one mount table. The paths there were resolved by whoever mounted
// the overlay, so they are tried from the root directories of the process and of our own.
func (l *layers) readMounts(pid, own int) error {
	roots := []int{own}
	for m, err := range proc.FS("").Mounts(pid) {
		if err != nil {
			return err
		}
		if pid == 0 {
			l.mounts = append(l.mounts, m)
		}
		if m.Type != "overlay" {
			continue
		}
		if pid != 0 && len(roots) == 1 {
			fd, err := sys.OpenDir(unix.AT_FDCWD, "/proc/"+strconv.Itoa(pid)+"/root")
			if exhausted(err) {
				return err
			}
			if err == nil {
				defer func() { _ = sys.Close(fd) }()
				roots = append(roots, fd)
			}
		}
		for _, path := range layerPaths(m.SuperOptions) {
			if err := l.add(path, roots); err != nil {
				return err
			}
		}
	}
	return nil
}

func (l *layers) add(path string, roots []int) error {
	path = filepath.Clean(path)
	switch {
	case filepath.IsAbs(path):
		for _, root := range roots {
			err := l.addInode(sys.OpenDirIn(root, path))
			if exhausted(err) {
				return err
			}
			l.paths[path] = l.paths[path] || err == nil
		}
	case filepath.IsLocal(path) && path != ".":
		l.relative = append(l.relative, "/"+path+"/")
	}
	return nil
}

// layerPaths reads the options of an overlay. Backslashes stay in some of the values and not in others, by the kernel's
// version and by the system call that mounted it; so what holds one gives two paths, of which one is wrong and harms nobody.
func layerPaths(options string) []string {
	var paths []string
	add := func(path string) {
		if path == "" {
			return
		}
		paths = append(paths, path)
		if plain := unescapeLayer(path); plain != path {
			paths = append(paths, plain)
		}
	}
	for option := range strings.SplitSeq(options, ",") {
		key, _, _ := strings.Cut(option, "=")
		value, _ := proc.Option(option, key)
		switch key {
		case "upperdir", "workdir", "lowerdir+", "datadir+":
			add(value)
		case "lowerdir":
			for _, path := range splitLayers(value) {
				add(path)
			}
		}
	}
	return paths
}

// splitLayers divides the value of lowerdir at the colons that have no backslash before them. Layers with data only have two
// colons before them.
func splitLayers(value string) []string {
	var paths []string
	start := 0
	for i := 0; i < len(value); i++ {
		switch value[i] {
		case '\\':
			i++
		case ':':
			paths = append(paths, value[start:i])
			start = i + 1
		}
	}
	return append(paths, value[start:])
}

// unescapeLayer takes the backslashes away that make the next byte literal.
func unescapeLayer(path string) string {
	if strings.IndexByte(path, '\\') < 0 {
		return path
	}
	b := make([]byte, 0, len(path))
	for i := 0; i < len(path); i++ {
		if path[i] == '\\' && i+1 < len(path) {
			i++
		}
		b = append(b, path[i])
	}
	return string(b)
}

// include tells whether the directory is a layer or in one: by the inodes of the directories above it, by the attributes
// that overlayfs has left in one of them, and by its path where inodes cannot be had. In doubt it is.
func (l *layers) include(d *dir) (included bool, doubt error) {
	if l.doubt != nil {
		return true, l.doubt
	}
	found := false
	err := l.ancestors(d, func(fd int, id sys.DirID) bool {
		if found = l.inodes[inodeOf(id)]; !found {
			found, doubt = hasOverlayAttribute(fd)
		}
		return !found
	})
	if found {
		return true, doubt
	}
	barred := errors.Is(err, fs.ErrPermission) // from going up
	if err != nil && !barred {
		return true, err
	}
	path, err := sys.Readlinkat(unix.AT_FDCWD, "/proc/thread-self/fd/"+strconv.Itoa(d.fd))
	return err != nil || l.includePath(path, barred), err
}

// includePath compares with the paths of the layers that could not be opened, or with all.
func (l *layers) includePath(path string, all bool) bool {
	for above := path; ; above = filepath.Dir(above) {
		if opened, ok := l.paths[above]; ok && (all || !opened) {
			return true
		}
		if len(above) <= 1 { // "/", or "." above what has no path here
			break
		}
	}
	path += "/"
	for _, relative := range l.relative {
		if strings.Contains(path, relative) {
			return true
		}
	}
	for _, s := range rootlessStorage { // of any user
		if strings.Contains(path, "/"+rootlessHome+"/"+s+"/") {
			return true
		}
	}
	return false
}

// hasOverlayAttribute tells whether overlayfs has written down something about the directory, as it does in upper layers.
// The names begin with "user." where it was mounted with userxattr. In doubt it has; where attributes may not be read, or there are none, it
// has not.
func hasOverlayAttribute(fd int) (has bool, doubt error) {
	attributes, err := sys.ListXattr(fd)
	if err != nil && !errors.Is(err, errors.ErrUnsupported) && !errors.Is(err, fs.ErrPermission) {
		return true, err
	}
	return slices.ContainsFunc(attributes, func(a string) bool {
		return strings.HasPrefix(a, "trusted.overlay.") || strings.HasPrefix(a, "user.overlay.")
	}), nil
}

// ancestors calls yield for the directory and those above it in its filesystem, until it returns false. A layer does not
// reach into what is mounted in it, so the way up ends at the root of the mount; but where a mount shows only a part of its
// filesystem, the way goes on in another mount that shows more.
func (l *layers) ancestors(d *dir, yield func(fd int, id sys.DirID) bool) error {
	fd, id := d.fd, d.id
	for yield(fd, id) {
		up, upID, err := l.parent(fd, id)
		if fd != d.fd {
			_ = sys.Close(fd)
		}
		if err != nil || up < 0 {
			return err
		}
		fd, id = up, upID
	}
	if fd != d.fd {
		_ = sys.Close(fd)
	}
	return nil
}

// parent opens the directory above; -1 where there is none.
func (l *layers) parent(fd int, id sys.DirID) (int, sys.DirID, error) {
	up, upID, err := openIdentified(fd, "..")
	if err != nil || (upID.Mount == id.Mount && upID != id) {
		return up, upID, err
	}
	_ = sys.Close(up)
	again, againID, err := l.remount(id)
	if again < 0 {
		return -1, sys.DirID{}, err
	}
	defer func() { _ = sys.Close(again) }()
	return l.parent(again, againID)
}

// remount finds the root directory of a mount in another mount that shows more of the filesystem; -1 where there is none.
func (l *layers) remount(id sys.DirID) (int, sys.DirID, error) {
	var part proc.Mount
	for _, m := range l.mounts {
		if m.ID == id.Mount {
			part = m
		}
	}
	for _, m := range l.mounts {
		if m.Major != part.Major || m.Minor != part.Minor || len(m.Root) >= len(part.Root) {
			continue
		}
		rest, ok := strings.CutPrefix(part.Root, strings.TrimSuffix(m.Root, "/")+"/")
		if !ok {
			continue
		}
		fd, there, err := openIdentified(unix.AT_FDCWD, m.Point+"/"+rest)
		if exhausted(err) {
			return -1, sys.DirID{}, err
		}
		if err != nil {
			continue
		}
		if there.Mount == m.ID && inodeOf(there) == inodeOf(id) {
			return fd, there, nil
		}
		_ = sys.Close(fd)
	}
	return -1, sys.DirID{}, nil
}

func openIdentified(dirfd int, path string) (int, sys.DirID, error) {
	fd, err := sys.OpenDir(dirfd, path)
	if err != nil {
		return -1, sys.DirID{}, err
	}
	id, err := sys.StatDir(fd)
	if err != nil {
		_ = sys.Close(fd)
		return -1, sys.DirID{}, err
	}
	return fd, id, nil
}
