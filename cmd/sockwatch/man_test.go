package main

import (
	"bytes"
	"flag"
	"os"
	"path/filepath"
	"regexp"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/cobra/doc"
)

var update = flag.Bool("update", false, "write what the tests compare with")

// TestManPages: the manual pages are those of the help as it is now. With -update they are made anew.
func TestManPages(t *testing.T) {
	root := newRootCmd(newApp(os.Stdout, os.Stderr))
	root.InitDefaultCompletionCmd()
	root.DisableAutoGenTag = true
	dir := t.TempDir()
	must(t, doc.GenManTree(root, &doc.GenManHeader{Source: "sockwatch", Manual: "sockwatch"}, dir))
	date := regexp.MustCompile(`(?m)^(\.TH "[^"]*" "1" )"[^"]*"`)
	pages := func(dir string) map[string]string {
		names, err := filepath.Glob(filepath.Join(dir, "*"))
		must(t, err)
		texts := map[string]string{}
		for _, name := range names {
			text, err := os.ReadFile(name)
			must(t, err)
			texts[filepath.Base(name)] = string(date.ReplaceAll(bytes.TrimSpace(text), []byte(`$1""`))) + "\n"
		}
		return texts
	}
	made := pages(dir)
	if *update {
		must(t, os.RemoveAll("man"))
		must(t, os.Mkdir("man", 0o755))
		for name, text := range made {
			must(t, os.WriteFile(filepath.Join("man", name), []byte(text), 0o644))
		}
	}
	if diff := cmp.Diff(pages("man"), made); diff != "" {
		t.Errorf("the manual pages are not those of the help; go test ./cmd/sockwatch -run TestManPages -update makes them:\n%s", diff)
	}
}
