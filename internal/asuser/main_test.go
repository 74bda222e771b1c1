package asuser

import (
	"testing"

	"github.com/sockwatch/sockwatch/internal/testutil"
)

func TestMain(m *testing.M) {
	testutil.Main(m, testutil.Helpers{
		"credentials":  sayCredentials,
		"first thread": onFirstThread,
		"no way back":  loseAll,
	})
}
