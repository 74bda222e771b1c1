package socktest_test

import (
	"testing"

	"github.com/sockwatch/sockwatch/socktest"
)

// A test that must leave nothing in the default directories, nor in those of t.TempDir.
func ExampleVerifyNone() {
	_ = func(t *testing.T) {
		socktest.VerifyNone(t)
		// Start servers, kill them, wait for them.
	}
}

// What tmux leaves is not ours to complain about, and this directory is the only one that matters. What is found is removed, too.
func ExampleVerifyNone_options() {
	_ = func(t *testing.T) {
		dir := t.TempDir()
		socktest.VerifyNone(t, socktest.Dir(dir), socktest.Ignore("tmux-*"), socktest.Reap())
	}
}

// All tests of a package together, also those that run at the same time.
func ExampleVerifyTestMain() {
	_ = func(m *testing.M) {
		socktest.VerifyTestMain(m)
	}
}
