package spawn

import (
	"testing"
	"time"

	"github.com/sockwatch/sockwatch/internal/testutil"
)

func TestMain(m *testing.M) {
	afterCancel = time.Hour // no process of a test stays, and how long its end takes nobody knows
	testutil.Main(m)
}
