// Package systemd has tests of the units in this directory, by systemd's own tool.
package systemd

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sockwatch/sockwatch/internal/testutil"
)

func TestMain(m *testing.M) { testutil.Main(m) }

// TestVerify: systemd knows every directive and value.
func TestVerify(t *testing.T) {
	testutil.Require(t, testutil.Program("systemd-analyze"))
	t.Setenv("XDG_RUNTIME_DIR", t.TempDir()) // of which the user's units are in need
	for dir, flags := range map[string][]string{".": {"--system"}, "user": {"--user"}} {
		units := installed(t, dir)
		args := append(append([]string{}, flags...), "--man=no", "--recursive-errors=no", "verify")
		out, err := exec.Command("systemd-analyze", append(args, units...)...).CombinedOutput()
		if err != nil || len(out) > 0 {
			t.Errorf("%s: %v\n%s", dir, err, out)
		}
	}
}

// exposure is the limit of what 'systemd-analyze security' says of the unit, ten times its figure (100 is worst). What is
// left open is explained in the unit: this test is there so that nothing more is opened by mistake.
const exposure = "50"

func TestSecurity(t *testing.T) {
	testutil.Require(t, testutil.Program("systemd-analyze"))
	unit := filepath.Join(filepath.Dir(installed(t, ".")[0]), "sockwatch.service")
	out, err := exec.Command("systemd-analyze", "--no-pager", "--offline=yes", "--threshold="+exposure, "security", unit).CombinedOutput()
	if err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

// TestOpenat2: no unit takes the system call away that every path is opened by, as this directive does.
func TestOpenat2(t *testing.T) {
	for _, unit := range []string{"sockwatch.service", "user/sockwatch.service"} {
		text, err := os.ReadFile(unit)
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(text), "\nRestrictSUIDSGID=") {
			t.Errorf("%s has RestrictSUIDSGID=", unit)
		}
	}
}

// installed gives copies of the units in dir, whose program is there: verify looks for it.
func installed(t *testing.T, dir string) []string {
	t.Helper()
	units, err := filepath.Glob(filepath.Join(dir, "sockwatch*.s*"))
	if err != nil || len(units) != 3 {
		t.Fatal(units, err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	to := t.TempDir()
	for i, unit := range units {
		text, err := os.ReadFile(unit)
		if err != nil {
			t.Fatal(err)
		}
		units[i] = filepath.Join(to, filepath.Base(unit))
		text = []byte(strings.ReplaceAll(string(text), "ExecStart=/usr/bin/sockwatch ", "ExecStart="+self+" "))
		if err := os.WriteFile(units[i], text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return units
}
