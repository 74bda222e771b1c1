package notify

import (
	"os"
	"strings"
	"testing"

	"github.com/sockwatch/sockwatch/internal/notifyd"
	"github.com/sockwatch/sockwatch/internal/testutil"
)

// What is sent here is what the receiving side of sockwatch understands.
func TestReceiver(t *testing.T) {
	dir := testutil.TempDir(t)
	r, err := notifyd.Listen(dir+"/notify", notifyd.Options{Mode: 0o600})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	t.Setenv(Variable, dir+"/notify")
	next := func() notifyd.Report {
		t.Helper()
		report, err := r.Next()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(report.Close)
		if report.Err != nil || report.Sender.PID != os.Getpid() {
			t.Errorf("%+v", report)
		}
		return report
	}

	l, err := Listen(t.Context(), "unix", dir+"/s")
	if err != nil {
		t.Fatal(err)
	}
	_ = l.Close()
	for _, unbind := range []bool{false, true} {
		if got := next().Changes; len(got) != 1 || got[0] != (notifyd.Change{Path: dir + "/s", Unbind: unbind}) {
			t.Errorf("%+v", got)
		}
	}

	longest := "FUTURE=" + strings.Repeat("x", MaxMessage-len("FUTURE=\nNAME=n")) + "\nNAME=n"
	if err := Send(longest); err != nil {
		t.Fatal(err)
	}
	if got := next(); got.Name != "n" {
		t.Errorf("%+v", got)
	}
}
