package reap

import "strings"

// Where is the File's name in its directory as the kernel calls that at this moment: absolute and free of symlinks, whatever path the File
// was opened by. Nothing is looked up, so it cannot be led elsewhere and waits for no filesystem; whether the name is still the File's it
// does not tell.
//
// It is the path from our root directory. Of a directory in another mount namespace, or outside of our root directory, it is the path from
// the root of all mounts there; one that is removed has " (deleted)" at its end. proc_pid_fd(5).
//
// Errors: ENAMETOOLONG where the directory's path has 4,096 bytes or more; fs.ErrNotExist without /proc.
func (f *File) Where() (string, error) {
	at, err := pathOf(f.dir.fd)
	if err != nil {
		return "", err
	}
	return strings.TrimSuffix(at, "/") + "/" + f.name(), nil
}
