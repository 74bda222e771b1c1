package main

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/cobra"

	"github.com/sockwatch/sockwatch/reap"
)

// resolveClaims is claimFlags as a command has them.
func resolveClaims(defaultName string, args ...string) (claims, error) {
	var f claimFlags
	cmd := &cobra.Command{}
	f.register(cmd)
	if err := cmd.ParseFlags(args); err != nil {
		return claims{}, err
	}
	return f.resolve(defaultName)
}

func TestClaimFlags(t *testing.T) {
	t.Chdir(t.TempDir())
	wd, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("XDG_RUNTIME_DIR", "/run/user/7")
	convention := func(pattern string) reap.Convention {
		c, err := reap.ParseConvention(pattern)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	for _, tt := range []struct {
		name string // default
		args string
		want claims
	}{
		{"redis-server", "", claims{Name: "redis-server"}},
		{"redis-server", "--name redis", claims{Name: "redis"}},
		{"", "--bind a,b.sock --bind /run/../x", claims{Paths: []string{wd + "/a,b.sock", "/run/../x"}}},
		{"", "--bind link/../s", claims{Paths: []string{wd + "/link/../s"}}},
		{"", "--bindspace . --bindspace /run/absent/", claims{Bindspaces: []string{wd, "/run/absent"}}},
		{"", "--bind ./a//b --bindspace a/../b/.", claims{Paths: []string{wd + "/a/b"}, Bindspaces: []string{wd + "/a/../b/."}}},
		{"", "--bindspace /b --convention plugin{pid}", claims{
			Bindspaces:  []string{"/b"},
			Conventions: []reap.Convention{convention("plugin{pid}")},
		}},
		{"root", "--preset tractor --bindspace /b --convention {pid}", claims{
			Name:        "root",
			Bindspaces:  []string{"/b", "/run/user/7/tractor"},
			Conventions: []reap.Convention{convention("{pid}"), convention("{name}@{pid}.sock")},
		}},
	} {
		got, err := resolveClaims(tt.name, strings.Fields(tt.args)...)
		if err != nil {
			t.Errorf("%s: %v", tt.args, err)
			continue
		}
		if diff := cmp.Diff(tt.want, got, cmp.Comparer(func(a, b reap.Convention) bool { return a == b })); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tt.args, diff)
		}
	}
}

func TestClaimFlagsRefuse(t *testing.T) {
	for _, tt := range []struct {
		name, args string
		want       string
	}{
		{"", "--bind=", "directory"},
		{"", "--bind /run/", "--bindspace"},
		{"", "--bind ..", "directory"},
		{"", "--bindspace=", "--bindspace is empty"},
		{"", "--bindspace /b --convention {name}@{pd}", `at byte 7, "{pd}"`},
		{"x", "--convention {name}", "add --bindspace"},
		{"", "--preset tractor", "add --name"},
		{"x", "--preset tracktor", "there is: tractor"},
		{"x", "--preset tractor --name a/b", `cannot hold "/"`},
	} {
		got, err := resolveClaims(tt.name, strings.Fields(tt.args)...)
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %+v, %v; want an error with %q", tt.args, got, err, tt.want)
			continue
		}
		var exit *exitError
		if !errors.As(withStatus(&cobra.Command{}, err, true), &exit) || exit.status != statusUsage {
			t.Errorf("%s: not wrong usage: %v", tt.args, err)
		}
	}
}

func TestClaimFlagsWithoutWorkingDirectory(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "gone")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	t.Chdir(dir)
	if err := os.Remove(dir); err != nil {
		t.Fatal(err)
	}
	if c, err := resolveClaims("", "--bind", "a.sock"); err == nil || !strings.Contains(err.Error(), "a.sock") {
		t.Errorf("%+v, %v", c, err)
	}
	if _, err := resolveClaims("", "--bind", "/run/a.sock"); err != nil {
		t.Errorf("an absolute path needs no working directory: %v", err)
	}
}
