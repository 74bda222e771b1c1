package ebpf

import (
	"testing"

	"github.com/sockwatch/sockwatch/internal/testutil"
)

func TestMain(m *testing.M) {
	testutil.Main(m, testutil.Helpers{
		"binder":   binder,
		"flood":    flood,
		"open":     openAndTell,
		"io_uring": bindByRing,
	})
}
