package failpoint

import (
	"testing"

	"github.com/sockwatch/sockwatch/internal/testutil"
)

func TestMain(m *testing.M) { testutil.Main(m, helpers) }

// helpers are those of the tests that need the tag.
var helpers = testutil.Helpers{}
