package main

import (
	"bytes"
	"context"
	"debug/elf"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// wantedModules are those that tests need; Debian's kernels have the rest of what is needed built in, or one of them does.
var wantedModules = []string{"unix_diag", "overlay", "loop", "ext4", "fuse"}

// modules gives the wanted modules that this kernel has not built in, each after those it depends on.
func (k kernel) modules(ctx context.Context) (order []string, contents map[string][]byte, err error) {
	dir, err := k.find("lib/modules", "usr/lib/modules")
	if err != nil {
		return nil, nil, err
	}
	files := map[string]string{}
	err = filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		if name, _, ok := strings.Cut(filepath.Base(path), ".ko"); ok {
			files[strings.ReplaceAll(name, "-", "_")] = path
		}
		return err
	})
	if err != nil {
		return nil, nil, err
	}
	contents = map[string][]byte{}
	var load func(name string) error
	load = func(name string) error {
		path, ok := files[name]
		if !ok || contents[name] != nil { // built in, or loaded
			return nil
		}
		b, err := readModule(ctx, path)
		if err != nil {
			return err
		}
		contents[name] = b
		needs, err := dependencies(b)
		if err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		for _, need := range needs {
			if err := load(need); err != nil {
				return err
			}
		}
		order = append(order, name)
		return nil
	}
	for _, name := range wantedModules {
		if err := load(name); err != nil {
			return nil, nil, err
		}
	}
	return order, contents, nil
}

func readModule(ctx context.Context, path string) ([]byte, error) {
	if !strings.HasSuffix(path, ".xz") {
		return os.ReadFile(path)
	}
	out, err := output(exec.CommandContext(ctx, "xz", "-dc", path))
	return []byte(out), err
}

// dependencies reads what modinfo(8) shows as "depends", and the soft ones that come before.
func dependencies(module []byte) ([]string, error) {
	f, err := elf.NewFile(bytes.NewReader(module))
	if err != nil {
		return nil, err
	}
	section := f.Section(".modinfo")
	if section == nil {
		return nil, fmt.Errorf("no section .modinfo")
	}
	info, err := section.Data()
	if err != nil {
		return nil, err
	}
	var needs []string
	for field := range strings.SplitSeq(string(info), "\x00") {
		if list, ok := strings.CutPrefix(field, "softdep=pre: "); ok {
			needs = append(needs, strings.Fields(list)...)
		}
		if list, ok := strings.CutPrefix(field, "depends="); ok && list != "" {
			needs = append(needs, strings.Split(list, ",")...)
		}
	}
	for i, need := range needs {
		needs[i] = strings.ReplaceAll(need, "-", "_")
	}
	return slices.DeleteFunc(needs, func(s string) bool { return s == "" }), nil
}
