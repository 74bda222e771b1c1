package main

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// A place is a directory to work in.
type place struct{ dir, filesystem string }

// findPlaces gives the given directories, or else one on ext4 and one on tmpfs, where there are any.
func findPlaces(dirs []string) (places []place, err error) {
	for _, dir := range dirs {
		fs, err := filesystem(dir)
		if err != nil {
			return nil, err
		}
		places = append(places, place{dir, fs})
	}
	if len(places) > 0 {
		return places, nil
	}
	for _, want := range []string{"ext4", "tmpfs"} {
		for _, dir := range []string{os.TempDir(), "/var/tmp", "/dev/shm", "."} {
			if fs, err := filesystem(dir); err == nil && fs == want && unix.Access(dir, unix.W_OK) == nil {
				places = append(places, place{dir, fs})
				break
			}
		}
	}
	if len(places) == 0 {
		return nil, errors.New("found no directory on ext4 or tmpfs: name one with -dir")
	}
	return places, nil
}

func filesystem(dir string) (string, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return "", &os.PathError{Op: "statfs", Path: dir, Err: err}
	}
	switch uint32(st.Type) {
	case unix.EXT4_SUPER_MAGIC:
		return "ext4", nil
	case unix.TMPFS_MAGIC:
		return "tmpfs", nil
	case unix.XFS_SUPER_MAGIC:
		return "xfs", nil
	case unix.BTRFS_SUPER_MAGIC:
		return "btrfs", nil
	}
	return fmt.Sprintf("%#x", st.Type), nil
}
