package proc

import (
	"os"
	"testing"

	"github.com/sockwatch/sockwatch/internal/testutil"
)

func TestMain(m *testing.M) {
	testutil.Main(m, testutil.Helpers{
		"comm":        helperComm,
		"forbidden":   helperForbidden,
		"mounts":      helperMounts,
		"nondumpable": helperNondumpable,
		"sockets":     helperSockets,
	})
}

// fixture is a procfs as text. Process 26231 has two threads and two children, 26232 a hostile name, no file "children"
// and no child, 26233 is bare.
const fixture FS = "testdata/proc"

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// untilHangup ends a helper when its standard input does.
func untilHangup() {
	_, _ = os.Stdin.Read(make([]byte, 1))
}
