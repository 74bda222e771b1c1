package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/sockwatch/sockwatch/reap"
)

// claimFlags are the flags by which run and kill are told what a process may have bound.
type claimFlags struct {
	name        string
	paths       []string
	bindspaces  []string
	conventions []string
	preset      string
}

// claims is what the flags say, checked. Paths are absolute and need not exist.
type claims struct {
	Name        string
	Paths       []string
	Bindspaces  []string
	Conventions []reap.Convention
}

func (f *claimFlags) register(cmd *cobra.Command) {
	flags := cmd.Flags()
	// Arrays, not slices: a path may hold a comma.
	flags.StringVar(&f.name, "name", "", "the process's `NAME` in conventions and messages")
	flags.StringArrayVar(&f.paths, "bind", nil, "the process binds `PATH`, now or later (repeatable)")
	flags.StringArrayVar(&f.bindspaces, "bindspace", nil, "the process makes sock-files in the directory `DIR` (repeatable)")
	flags.StringArrayVar(&f.conventions, "convention", nil,
		"its sock-files in a bindspace are named by `PATTERN`, such as {name}@{pid}.sock (repeatable)")
	presetFlag(cmd, &f.preset)
	_ = cmd.MarkFlagFilename("bind")
	_ = cmd.MarkFlagDirname("bindspace")
	_ = cmd.RegisterFlagCompletionFunc("name", cobra.NoFileCompletions)
	_ = cmd.RegisterFlagCompletionFunc("convention", cobra.NoFileCompletions)
}

// presetFlag gives a command --preset.
func presetFlag(cmd *cobra.Command, to *string) {
	names := reap.PresetNames()
	cmd.Flags().StringVar(to, "preset", "", "bindspaces and conventions of a known program `NAME`: "+strings.Join(names, ", "))
	_ = cmd.RegisterFlagCompletionFunc("preset", cobra.FixedCompletions(names, cobra.ShellCompDirectiveNoFileComp))
}

// lookupPreset gives the Preset of --preset, an empty one where it is not set.
func lookupPreset(name string) (reap.Preset, error) {
	if name == "" {
		return reap.Preset{}, nil
	}
	p, err := reap.LookupPreset(name)
	if err != nil {
		return reap.Preset{}, usagef("--preset: %w", err)
	}
	return p, nil
}

// resolve checks the flags and makes paths absolute, against the working directory. Without --name the name is defaultName,
// which may be empty. It looks at no file: what does not exist yet may be made later.
func (f *claimFlags) resolve(defaultName string) (claims, error) {
	c := claims{Name: f.name}
	if c.Name == "" {
		c.Name = defaultName
	}
	for _, path := range f.paths {
		abs, err := absolute(path)
		if err != nil {
			return claims{}, fmt.Errorf("--bind: %w", err)
		}
		if base := abs[strings.LastIndexByte(abs, '/')+1:]; path == "" || base == "" || base == "." || base == ".." {
			return claims{}, usagef("--bind %q: it names a directory, not a sock-file; for a directory there is --bindspace", path)
		}
		c.Paths = append(c.Paths, tidy(abs))
	}
	for _, dir := range f.bindspaces {
		if dir == "" {
			return claims{}, usagef("--bindspace is empty")
		}
		abs, err := absolute(dir)
		if err != nil {
			return claims{}, fmt.Errorf("--bindspace: %w", err)
		}
		c.Bindspaces = append(c.Bindspaces, tidy(abs))
	}
	for _, pattern := range f.conventions {
		conv, err := reap.ParseConvention(pattern)
		if err != nil {
			return claims{}, usagef("--convention: %w", err)
		}
		c.Conventions = append(c.Conventions, conv)
	}
	preset, err := lookupPreset(f.preset)
	if err != nil {
		return claims{}, err
	}
	c.Bindspaces = append(c.Bindspaces, preset.Bindspaces...)
	c.Conventions = append(c.Conventions, preset.Conventions...)
	return c, c.check()
}

// check looks at what only goes wrong together.
func (c claims) check() error {
	if len(c.Conventions) > 0 && len(c.Bindspaces) == 0 {
		return usagef("--convention %s: it names a file in a bindspace, and none is given: add --bindspace DIR", c.Conventions[0])
	}
	for _, conv := range c.Conventions {
		if _, err := conv.Build(c.Name, os.Getpid()); err != nil { // of any pid
			if c.Name == "" {
				return usagef("convention %s has {name} in it: add --name NAME", conv)
			}
			return usagef("--name %q does not fit: %w", c.Name, err)
		}
	}
	return nil
}

// absolute makes a path absolute, and changes nothing else: after a symlink ".." is not what filepath.Clean takes it for.
func absolute(path string) (string, error) {
	if filepath.IsAbs(path) {
		return path, nil
	}
	wd, err := os.Getwd()
	if err != nil {
		return "", fmt.Errorf("%s is relative to the working directory, which cannot be found: %w", path, err)
	}
	return strings.TrimSuffix(wd, "/") + "/" + path, nil
}

// tidy takes out what means nothing in a path: "." and doubled slashes. One with ".." stays as it is.
func tidy(path string) string {
	if strings.Contains(path+"/", "/../") {
		return path
	}
	return filepath.Clean(path)
}
