package tracing

import (
	"testing"

	"github.com/sockwatch/sockwatch/internal/testutil"
)

func TestMain(m *testing.M) {
	testutil.Main(m, testutil.Helpers{"puppet": puppet, "brief": brief})
}
