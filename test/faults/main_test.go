//go:build failpoints

package faults

import (
	"fmt"
	"os"
	"testing"

	"github.com/sockwatch/sockwatch/internal/testutil"
)

// helpers are the processes that the tests need, by name.
var helpers = testutil.Helpers{}

func TestMain(m *testing.M) {
	tests := testutil.Checked(m, helpers)
	os.Exit(withProgram(tests))
}

// withProgram gives the program a directory, for as long as there are tests.
func withProgram(tests testutil.TestingM) int {
	var err error
	if builtIn, err = os.MkdirTemp("", "sockwatch-faults"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(builtIn)
	return tests.Run()
}
