// Package python is no Go: here the tests of the Python package are run along with the others.
package python

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/sockwatch/sockwatch/internal/testutil"
)

// TestPython runs them with the program that is built from this tree, for the client.
func TestPython(t *testing.T) {
	testutil.Require(t, testutil.Pytest)
	python, err := testutil.Python()
	if err != nil {
		t.Fatal(err)
	}
	program := filepath.Join(testutil.TempDir(t), "sockwatch")
	if said, err := exec.Command("go", "build", "-o", program, "../cmd/sockwatch").CombinedOutput(); err != nil {
		t.Logf("go build: %v\n%s", err, said)
		program = "" // the tests that need it say so
	}
	pytest := exec.CommandContext(t.Context(), python, "-m", "pytest", "-q", "-rs", "-p", "no:cacheprovider")
	pytest.Cancel = func() error { return pytest.Process.Signal(unix.SIGTERM) }
	pytest.Env = append(os.Environ(), "SOCKWATCH="+program, "PYTHONDONTWRITEBYTECODE=1")
	said, err := pytest.CombinedOutput()
	if err != nil {
		t.Fatalf("pytest: %v\n%s", err, said)
	}
	t.Logf("%s", said)
}
