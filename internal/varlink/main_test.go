package varlink

import (
	"testing"

	"github.com/sockwatch/sockwatch/internal/testutil"
)

var helpers = testutil.Helpers{}

func TestMain(m *testing.M) { testutil.Main(m, helpers) }
