package client

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// ControlName is the name of the control socket in the daemon's runtime directory.
const ControlName = "control"

// RuntimeDirEnv is the environment variable that names the daemon's runtime directory, to it and to its clients.
const RuntimeDirEnv = "SOCKWATCH_RUNTIME_DIR"

// systemDir is the runtime directory of the daemon of the whole machine.
const systemDir = "/run/sockwatch"

// RuntimeDir returns the directory that a daemon has its sockets in, when it is not told another: that of
// $SOCKWATCH_RUNTIME_DIR, else as uid 0 /run/sockwatch, else $XDG_RUNTIME_DIR/sockwatch. The directory may be missing.
//
// An error says which variable to set. Those are to be absolute.
func RuntimeDir() (string, error) {
	if dir := os.Getenv(RuntimeDirEnv); dir != "" {
		return absolute(RuntimeDirEnv, dir)
	}
	if os.Geteuid() == 0 {
		return systemDir, nil
	}
	dir, err := userDir()
	if dir == "" && err == nil {
		err = fmt.Errorf("no runtime directory: XDG_RUNTIME_DIR is not set; set it, or %s to a directory of your own", RuntimeDirEnv)
	}
	return dir, err
}

// ControlSocket returns the path of the control socket of the daemon that a client means when it is not told another: in
// $SOCKWATCH_RUNTIME_DIR, where that is set; else in $XDG_RUNTIME_DIR/sockwatch or /run/sockwatch, the first in which there is
// one. It does not ask whether anybody listens.
//
// ErrNoDaemon, with all places that were looked at.
func ControlSocket() (string, error) {
	var dirs []string
	if dir := os.Getenv(RuntimeDirEnv); dir != "" {
		dir, err := absolute(RuntimeDirEnv, dir)
		if err != nil {
			return "", err
		}
		dirs = []string{dir}
	} else {
		dir, err := userDir()
		if err != nil {
			return "", err
		}
		if dir != "" {
			dirs = append(dirs, dir)
		}
		dirs = append(dirs, systemDir)
	}
	var looked []string
	for _, dir := range dirs {
		path := filepath.Join(dir, ControlName)
		err := isSocket(path)
		if err == nil {
			return path, nil
		}
		looked = append(looked, fmt.Sprintf("%s: %v", path, err))
	}
	return "", fmt.Errorf("%w (%s)", ErrNoDaemon, strings.Join(looked, "; "))
}

// userDir is the runtime directory of a user's own daemon, "" where XDG_RUNTIME_DIR is not set.
func userDir() (string, error) {
	const env = "XDG_RUNTIME_DIR"
	dir := os.Getenv(env)
	if dir == "" {
		return "", nil
	}
	dir, err := absolute(env, dir)
	if err != nil {
		return "", err
	}
	return filepath.Join(dir, "sockwatch"), nil
}

func absolute(env, dir string) (string, error) {
	if !filepath.IsAbs(dir) {
		return "", fmt.Errorf("%s is %q: it must be absolute", env, dir)
	}
	return dir, nil
}

func isSocket(path string) error {
	info, err := os.Stat(path)
	if pathErr := (*fs.PathError)(nil); errors.As(err, &pathErr) {
		return pathErr.Err
	}
	if err == nil && info.Mode().Type() != fs.ModeSocket {
		err = errors.New("not a socket")
	}
	return err
}
