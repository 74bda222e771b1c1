package socktest

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// Option changes what VerifyNone and VerifyTestMain do.
type Option func(*config) error

// Dir has them look into these directories, and two levels below each, instead of the default ones. They must be there.
func Dir(dirs ...string) Option {
	return func(c *config) error {
		for _, dir := range dirs {
			abs, err := filepath.Abs(dir)
			if err != nil {
				return fmt.Errorf("Dir(%q): %w", dir, err)
			}
			if info, err := os.Stat(abs); err != nil {
				return fmt.Errorf("Dir(%q): %w", dir, err)
			} else if !info.IsDir() {
				return fmt.Errorf("Dir(%q) is no directory", dir)
			}
			c.dirs = append(c.dirs, abs)
		}
		return nil
	}
}

// Ignore passes over files that a pattern of path/filepath.Match matches: the whole path, or the base name if there is no slash
// in the pattern.
func Ignore(patterns ...string) Option {
	return func(c *config) error {
		for _, pattern := range patterns {
			if _, err := filepath.Match(pattern, ""); err != nil {
				return fmt.Errorf("Ignore(%q): %w", pattern, err)
			}
		}
		c.ignore = append(c.ignore, patterns...)
		return nil
	}
}

// Reap removes the files that are reported as left behind: each only if it is still that inode, and still dead.
func Reap() Option {
	return func(c *config) error {
		c.reap = true
		return nil
	}
}

// Warn has them logged, and fails nothing.
func Warn() Option {
	return func(c *config) error {
		c.warn = true
		return nil
	}
}

type config struct {
	dirs       []string // instead of the default ones, absolute
	ignore     []string
	reap, warn bool

	inotifyOnly bool // set by tests
}

func configure(options []Option) (c config, err error) {
	for _, option := range options {
		if err := option(&c); err != nil {
			return config{}, err
		}
	}
	return c, nil
}

func (c *config) ignores(path string) bool {
	for _, pattern := range c.ignore {
		name := path
		if !strings.Contains(pattern, "/") {
			name = filepath.Base(path)
		}
		if ok, _ := filepath.Match(pattern, name); ok {
			return true
		}
	}
	return false
}
