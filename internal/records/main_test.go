package records

import (
	"testing"

	"github.com/sockwatch/sockwatch/internal/testutil"
)

func TestMain(m *testing.M) {
	testutil.Main(m, testutil.Helpers{
		"hold":  helperHold,
		"write": helperWrite,
	})
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
