package socktest

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// TestingT is the part of testing.TB that is needed here. Where it has a TempDir, as testing.TB has, that is looked into, too.
type TestingT interface {
	Helper()
	Cleanup(f func())
	Errorf(format string, args ...any)
	Logf(format string, args ...any)
}

// TestingM is the part of *testing.M that is needed here.
type TestingM interface {
	Run() int
}

// VerifyNone fails the test if it leaves dead sock-files behind, and names each: its inode, who has bound it, how that one
// ended. Call it first: it looks from now on, and once more after the cleanups of the test that are registered later.
//
// Where nothing can be seen (no inotify and no fanotify instance is left, /proc is missing) the test does not fail for that: the
// log says so. An option that is not valid fails the test.
func VerifyNone(t TestingT, options ...Option) {
	t.Helper()
	c, err := configure(options)
	if err != nil {
		t.Errorf("socktest: %v", err)
		return
	}
	own := ""
	if t, ok := t.(interface{ TempDir() string }); ok && len(c.dirs) == 0 {
		// The first call registers what removes it: before our cleanup is, so that it is done after that.
		own = filepath.Dir(t.TempDir())
	}
	o, err := observe(c)
	if err != nil {
		t.Logf("socktest: nothing is looked at: %v", err)
		return
	}
	if own != "" {
		o.watchOwn(own)
	}
	t.Cleanup(func() {
		t.Helper()
		leaks, notes := o.finish()
		for _, note := range notes {
			t.Logf("socktest: %s", note)
		}
		switch {
		case len(leaks) == 0:
		case c.warn:
			t.Logf("%s", describe(leaks))
		default:
			t.Errorf("%s", describe(leaks))
		}
	})
}

// VerifyTestMain is the body of a TestMain: it runs the tests, and exits with their status, or with 1 if that is 0 and they have
// left dead sock-files behind. These it names on standard error.
//
// What is in the directories of t.TempDir is gone by then: only VerifyNone sees it.
func VerifyTestMain(m TestingM, options ...Option) {
	os.Exit(runMain(m, options)) //nolint:forbidigo // as TestMain does that has nothing else to do, and goleak.VerifyTestMain
}

func runMain(m TestingM, options []Option) int {
	c, err := configure(options)
	if err != nil {
		fmt.Fprintf(os.Stderr, "socktest: %v\n", err)
		return 2
	}
	o, err := observe(c)
	if err != nil {
		fmt.Fprintf(os.Stderr, "socktest: nothing is looked at: %v\n", err)
		return m.Run()
	}
	code := m.Run()
	leaks, notes := o.finish()
	for _, note := range notes {
		fmt.Fprintf(os.Stderr, "socktest: %s\n", note)
	}
	if len(leaks) > 0 {
		fmt.Fprintln(os.Stderr, describe(leaks))
		if code == 0 && !c.warn {
			return 1
		}
	}
	return code
}

func describe(leaks []string) string {
	if len(leaks) == 1 {
		return "socktest: a sock-file was left behind dead: " + leaks[0]
	}
	return fmt.Sprintf("socktest: %d sock-files were left behind dead:\n\t%s", len(leaks), strings.Join(leaks, "\n\t"))
}
