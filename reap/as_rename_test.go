package reap

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/sockwatch/sockwatch/internal/testutil"
)

// TestUseRightsOf: what was opened with a user's rights is removed with these under a name in another directory, and what was opened with the
// process's own with its own, though the directory would be open to more or to less.
func TestUseRightsOf(t *testing.T) {
	as := asUser(t)
	var (
		removed = want{outcome: OutcomeRemoved}
		access  = want{OutcomeRefused, ReasonPermission, unix.EACCES}
		perm    = want{OutcomeRefused, ReasonPermission, unix.EPERM}
	)
	for _, tt := range []struct {
		what  string
		as    func(f func()) error // opens it by its first name
		again func(f func()) error // and by the next one
		owner int                  // of the next directory
		mode  os.FileMode
		file  int
		want  want
	}{
		{"a user's, root's directory", as, nil, 0, 0o755, nobody, access},
		{"a user's, closed to him", as, nil, 0, 0o700, nobody, access},
		{"a user's, another's directory", as, nil, somebody, 0o755, nobody, access},
		{"a user's, sticky", as, nil, 0, 0o777 | os.ModeSticky, nobody, removed},
		{"a user's that is another's by now, sticky", as, nil, 0, 0o777 | os.ModeSticky, somebody, perm},
		{"a user's, his directory", as, nil, nobody, 0o755, nobody, removed},
		{"root's, root's directory", nil, as, 0, 0o755, nobody, removed},
	} {
		t.Run(tt.what, func(t *testing.T) {
			dir := testutil.TempDir(t)
			must(t, os.Chmod(dir, 0o755))
			mkdir(t, 0o755, filepath.Join(dir, "first"))
			mkdir(t, tt.mode, filepath.Join(dir, "next"))
			first, next := filepath.Join(dir, "first", "s"), filepath.Join(dir, "next", "s")
			must(t, os.Chown(filepath.Dir(first), nobody, nobody))
			must(t, os.Chown(filepath.Dir(next), tt.owner, tt.owner))
			leaveDead(t, first)
			must(t, os.Lchown(first, tt.file, tt.file))
			root := openRoot(t, "/")
			f, err := OpenAs(tt.as, root, first)
			must(t, err)
			defer f.Close()
			must(t, os.Rename(first, next))
			renamed, err := OpenAs(tt.again, root, next)
			must(t, err)
			defer renamed.Close()
			renamed.UseRightsOf(f)
			for _, dry := range []bool{true, false} {
				checkResult(t, renamed.Remove(RemoveOptions{DryRun: dry}), tt.want)
			}
			if tt.want.outcome == OutcomeRemoved {
				wantNames(t, filepath.Dir(next))
			} else {
				wantNames(t, filepath.Dir(next), "s")
			}
		})
	}
}
