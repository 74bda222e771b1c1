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
			// On a slow machine all may be over before the first daemon is killed.
			for kills, tries := uint64(0), 0; kills == 0; tries++ {
				r, err := campaign(t.Context(), plan{
					daemon: []string{exe}, env: []string{"SOCKWATCH_TEST_CHILD=daemon"},
					dir: testutil.Dir(t, fs), deaths: 100 << tries, lanes: 25, steady: 5,
				})
				t.Log(r)
				if err != nil {
					t.Fatal(err)
				}
				if kills = r.kills; kills == 0 && tries == 5 {
					t.Fatal("no daemon was killed")
				}
			}
		})
	}
}
