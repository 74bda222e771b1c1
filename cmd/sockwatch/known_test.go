package main

import (
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/sockwatch/sockwatch/internal/testutil"
)

func TestNamesOf(t *testing.T) {
	dir, err := filepath.EvalSymlinks(testutil.TempDir(t))
	if err != nil {
		t.Fatal(err)
	}
	for _, err := range []error{
		os.MkdirAll(dir+"/a/b", 0o700), os.Symlink("a/b", dir+"/link"), os.Symlink("nowhere", dir+"/dangling"), os.Symlink("a", dir+"/a/b/last"),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	t.Chdir(dir)
	for path, want := range map[string][]string{
		dir + "/a/s":        {dir + "/a/s"},
		"a/s":               {dir + "/a/s"},
		"./a//b/s":          {dir + "/a/b/s"},
		"link/s":            {dir + "/link/s", dir + "/a/b/s"},
		"link/../s":         {dir + "/a/s"}, // and not dir/s
		"link/last":         {dir + "/link/last", dir + "/a/b/last"},
		"dangling/s":        {dir + "/dangling/s"},
		"absent/s":          {dir + "/absent/s"},
		"/absent-at-root.s": {"/absent-at-root.s"},
	} {
		if got := namesOf(path); !slices.Equal(got, want) {
			t.Errorf("%s: %q, want %q", path, got, want)
		}
	}
}

func TestCountOf(t *testing.T) {
	for n, want := range []string{"0 claims", "1 claim", "2 claims"} {
		if got := countOf(n, "claim"); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
	if got := countOf(2, "process"); got != "2 processes" {
		t.Error(got)
	}
}
