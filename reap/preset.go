package reap

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// Preset says where a well-known program makes its sock-files and how it names them.
type Preset struct {
	Name        string
	Bindspaces  []string // absolute; they need not exist
	Conventions []Convention
}

// presetData is a Preset as it is written down. A bindspace is relative to the user's runtime directory.
type presetData struct {
	name        string
	bindspaces  []string
	conventions []string
}

// presets is sorted by name.
var presets = []presetData{
	{
		name:        "tractor",
		bindspaces:  []string{"tractor"},
		conventions: []string{"{name}@{pid}.sock"},
	},
}

// LookupPreset gives the preset of that name, for the user and the environment of this process. The error names those
// there are.
//
// The bindspaces are below $XDG_RUNTIME_DIR. Where that is unset, or not absolute and therefore to be ignored by the XDG
// Base Directory Specification, it is /run/user/UID.
func LookupPreset(name string) (Preset, error) {
	for _, d := range presets {
		if d.name == name {
			return d.preset()
		}
	}
	return Preset{}, fmt.Errorf("no preset %q; there is: %s", name, strings.Join(PresetNames(), ", "))
}

// PresetNames lists the presets there are, sorted.
func PresetNames() []string {
	names := make([]string, 0, len(presets))
	for _, d := range presets {
		names = append(names, d.name)
	}
	return names
}

func (d presetData) preset() (Preset, error) {
	p := Preset{Name: d.name}
	runtime := runtimeDir()
	for _, b := range d.bindspaces {
		p.Bindspaces = append(p.Bindspaces, filepath.Join(runtime, b))
	}
	for _, pattern := range d.conventions {
		c, err := ParseConvention(pattern)
		if err != nil {
			return Preset{}, fmt.Errorf("preset %s: %w", d.name, err)
		}
		p.Conventions = append(p.Conventions, c)
	}
	return p, nil
}

func runtimeDir() string {
	if dir := os.Getenv("XDG_RUNTIME_DIR"); filepath.IsAbs(dir) {
		return dir
	}
	return filepath.Join("/run/user", strconv.Itoa(os.Getuid()))
}
