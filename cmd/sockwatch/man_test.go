package main

import (
	"os"
	"strings"
	"testing"
)

// TestManPages: each command has a page, with the words of its help.
func TestManPages(t *testing.T) {
	dir := t.TempDir()
	a := newApp(os.Stdout, os.Stderr)
	root := newRootCmd(a)
	if err := run(a, root, []string{"man", dir}); err != nil {
		t.Fatal(err)
	}
	for _, cmd := range append(root.Commands(), root) {
		if !cmd.IsAvailableCommand() && cmd != root || cmd.Name() == "help" {
			continue
		}
		page, err := os.ReadFile(dir + "/" + strings.ReplaceAll(cmd.CommandPath(), " ", "-") + ".1")
		if err != nil {
			t.Error(err)
			continue
		}
		text := strings.ReplaceAll(string(page), `\`, "") // it escapes dashes
		for line := range strings.SplitSeq(cmd.Long, "\n") {
			if !strings.Contains(text, strings.TrimSpace(line)) {
				t.Errorf("%s: the page has not %q", cmd.Name(), line)
			}
		}
	}
}
