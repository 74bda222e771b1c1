package reap

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
)

func TestLookupPresetTractor(t *testing.T) {
	t.Setenv("XDG_RUNTIME_DIR", "/run/somewhere")
	p, err := LookupPreset("tractor")
	if err != nil {
		t.Fatal(err)
	}
	if p.Name != "tractor" || !slices.Equal(p.Bindspaces, []string{"/run/somewhere/tractor"}) {
		t.Errorf("%+v", p)
	}
	if len(p.Conventions) != 1 || p.Conventions[0].String() != "{name}@{pid}.sock" {
		t.Errorf("conventions %v", p.Conventions)
	}
}

func TestLookupPresetWithoutRuntimeDir(t *testing.T) {
	want := fmt.Sprintf("/run/user/%d/tractor", os.Getuid())
	for _, unusable := range []string{"", "relative/dir"} {
		t.Setenv("XDG_RUNTIME_DIR", unusable)
		p, err := LookupPreset("tractor")
		if err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(p.Bindspaces, []string{want}) {
			t.Errorf("XDG_RUNTIME_DIR=%q: bindspaces %q, want %q", unusable, p.Bindspaces, want)
		}
	}
}

func TestLookupPresetUnknown(t *testing.T) {
	_, err := LookupPreset("tracktor")
	if err == nil || !strings.Contains(err.Error(), `"tracktor"`) || !strings.Contains(err.Error(), "tractor") {
		t.Errorf("error %v does not name what was asked for and what there is", err)
	}
}

func TestPresets(t *testing.T) {
	names := PresetNames()
	if !slices.IsSorted(names) {
		t.Errorf("not sorted: %q", names)
	}
	for _, name := range names {
		if _, err := LookupPreset(name); err != nil {
			t.Errorf("preset %q: %v", name, err)
		}
	}
}
