package main

import (
	"os"
	"testing"

	"github.com/sockwatch/sockwatch/internal/testutil"
)

// TestChaos is the campaign in short.
func TestChaos(t *testing.T) {
	for _, fs := range []testutil.Feature{testutil.Ext4, testutil.Tmpfs} {
		t.Run(fs.String(), func(t *testing.T) {
			exe, err := os.Executable()
			if err != nil {
				t.Fatal(err)
			}
			r, err := campaign(t.Context(), plan{
				daemon: []string{exe}, env: []string{"SOCKWATCH_TEST_CHILD=daemon"},
				dir: testutil.Dir(t, fs), deaths: 100, lanes: 25, steady: 5,
			})
			t.Log(r)
			if err != nil {
				t.Error(err)
			}
			if r.kills == 0 {
				t.Error("no daemon was killed")
			}
		})
	}
}
