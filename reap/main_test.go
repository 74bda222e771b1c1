package reap

import (
	"testing"

	"github.com/sockwatch/sockwatch/internal/testutil"
)

// helpers are what the test binary can be started as. The files of tests add theirs in init functions.
var helpers = testutil.Helpers{}

func TestMain(m *testing.M) { testutil.Main(m, helpers) }
