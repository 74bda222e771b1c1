package main

import (
	"testing"

	"github.com/sockwatch/sockwatch/internal/testutil"
)

// TestReapCommand: what is printed for a shell must be safe in one, and match nothing else.
func TestReapCommand(t *testing.T) {
	dir := testutil.TempDir(t)
	for name, plain := range map[string]bool{
		"a.sock": true, "worker@12.sock": true, "-n": true,
		"a b": false, "$(reboot)": false, "a*": false, "{a,b}": false, "[a]": false, "~": false, "a\nb": false, "ü": false,
	} {
		path := dir + "/" + name
		listen(t, path, true)
		e, err := explain(t.Context(), path)
		if err != nil {
			t.Fatal(err)
		}
		defer e.file.Close()
		want := "'sockwatch reap' on its directory, with --match for this file alone"
		if plain {
			want = "sockwatch reap --match " + name + " " + dir
		}
		if got := e.reapCommand(); got != want || e.Verdict != "remove" {
			t.Errorf("%q: %s, %q; want %q", name, e.Verdict, got, want)
		}
	}
}
