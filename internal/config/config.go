// Package config reads the configuration of the daemon: a TOML file of settings, rules and bindspaces, which
// docs/configuration.md describes.
//
// It reads and checks, and acts on nothing: no directory is looked at, no address listened on. What is wrong with a file is
// told all at once, each problem with its line and column, as an [*Error]; nothing of such a file is to be used.
//
// User names are looked up when the file is read: a Config does not follow later changes of the user database. Built
// without cgo, which is the rule here, os/user knows the users of /etc/passwd alone, not those of LDAP or systemd-homed.
package config

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/rs/zerolog"

	"github.com/sockwatch/sockwatch/ebpf"
	"github.com/sockwatch/sockwatch/reap"
)

// Config is what a file says, with the defaults for what it does not say. The zero Config is not the default: see [Default].
type Config struct {
	File       string // that it was read from; "" where there was none
	DryRun     bool   // nothing is removed, for the whole daemon
	LogLevel   zerolog.Level
	Metrics    Metrics
	Trace      Trace
	Rules      Rules
	Bindspaces []Bindspace
}

// Metrics is where metrics are served, in the words of net.Listen. The zero Metrics is nowhere.
type Metrics struct {
	Network string // "unix", "tcp" or ""
	Address string
}

// Trace says whether every bind on the machine is seen, and by which hooks. The zero Trace is not at all.
type Trace struct {
	On    bool
	Hooks ebpf.Hooks
}

// Bindspace is a directory to watch. That it is named is the administrator's consent to remove dead sock-files from it.
type Bindspace struct {
	Path        string // absolute and clean; it need not exist
	Sweep       bool   // its dead sock-files are removed when the daemon starts
	Conventions []reap.Convention
}

// Default is the configuration without a file.
func Default() Config { return Config{LogLevel: zerolog.InfoLevel} }

// maxSize bounds what is read into memory. It is some ten thousand rules.
const maxSize = 1 << 20

// DefaultPath is where the configuration is, if nobody says otherwise: /etc/sockwatch/sockwatch.toml for effective uid 0,
// otherwise sockwatch/sockwatch.toml in $XDG_CONFIG_HOME, or in ~/.config where that is unset or, by the XDG Base Directory
// Specification, to be ignored since it is not absolute.
func DefaultPath() (string, error) {
	if os.Geteuid() == 0 {
		return "/etc/sockwatch/sockwatch.toml", nil
	}
	dir := os.Getenv("XDG_CONFIG_HOME")
	if !filepath.IsAbs(dir) {
		home, err := os.UserHomeDir()
		if err != nil {
			return "", fmt.Errorf("find the configuration: %w, nor is XDG_CONFIG_HOME", err)
		}
		dir = filepath.Join(home, ".config")
	}
	return filepath.Join(dir, "sockwatch", "sockwatch.toml"), nil
}

// Load reads the file. Where it is missing, and nobody has asked for it by name (explicit), the result is the default
// configuration.
//
// The error is an [*Error] if the file was read and something in it is wrong, and fs.ErrNotExist, fs.ErrPermission or another
// of open(2) and read(2) if not.
func Load(path string, explicit bool) (Config, error) {
	data, err := read(path)
	if errors.Is(err, fs.ErrNotExist) && !explicit {
		return Default(), nil
	}
	if err != nil {
		return Config{}, fmt.Errorf("read the configuration: %w", err)
	}
	c, problems := parse(data)
	if len(problems) > 0 {
		return Config{}, &Error{File: path, Problems: problems}
	}
	c.File = path
	return c, nil
}

func read(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxSize+1))
	if err == nil && len(data) > maxSize {
		err = fmt.Errorf("%s: it is longer than %d bytes", path, maxSize)
	}
	return data, err
}
