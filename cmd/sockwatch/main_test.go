package main

import (
	"os"
	"runtime"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/sockwatch/sockwatch/client"
	"github.com/sockwatch/sockwatch/internal/testutil"
)

// patienceEnv is, for the program under test, how long it waits for a daemon that it can do without. Else it is for ever: no test fails
// because its daemon was slow.
const patienceEnv = "SOCKWATCH_TEST_PATIENCE"

// TestMain is not testutil.Main: a test binary that was started under the name sockwatch or puppet, by a script, is that
// program, and testscript.Main decides that. In the tests' own process testutil still looks for what was left behind.
func TestMain(m *testing.M) {
	// Under the race detector each of the hundreds of processes would wait for a second at its end.
	os.Setenv("GORACE", "atexit_sleep_ms=0")
	programs := map[string]func(){
		"canned":    canned,
		"puppet":    puppet,
		"receiver":  receiver,
		"shell":     shell,
		"sockwatch": main,
	}
	for name, program := range programs {
		programs[name] = func() {
			runtime.UnlockOSThread() // testutil's hold is for tests
			initPatience = forever
			daemonPatience = forever
			if d, err := time.ParseDuration(os.Getenv(patienceEnv)); err == nil {
				daemonPatience = d
			}
			program()
		}
	}
	testscript.Main(undaemoned{testutil.Checked(m)}, programs)
}

// undaemoned runs tests in which the machine's own daemon has no part.
type undaemoned struct{ testscript.TestingM }

func (u undaemoned) Run() int {
	os.Setenv(client.RuntimeDirEnv, "/none")
	return u.TestingM.Run()
}
