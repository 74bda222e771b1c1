// Package model states the promises of sockwatch as properties, and tries them on processes and sockets that do things at random: they bind,
// fork, execute, pass descriptors on, rename, link and replace files, and are killed. A model beside them knows at every moment which
// sockets live and who holds them, and with that which sock-file must be there, which must be gone once all is quiet, and
// which may be either.
//
// TestWatch has package watch do the removing, in the process of the test; TestDaemon the daemon, which is killed and started
// again as well.
//
// What was tried when a property fails is told step by step, made as short as it can be. A number of checks that suits `go test` is the
// default; for a long run:
//
//	go test ./test/model -timeout 0 -rapid.checks 5000 -rapid.steps 60
package model

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/sys/unix"

	"github.com/sockwatch/sockwatch/daemon"
	"github.com/sockwatch/sockwatch/internal/config"
	"github.com/sockwatch/sockwatch/internal/testutil"
)

func TestMain(m *testing.M) {
	testutil.Main(m, testutil.Helpers{"puppet": puppet, "daemon": daemonProcess})
}

// patience bounds what must come to its end by itself. Nothing comes near it.
const patience = 2 * time.Minute

// atMost makes this the number of checks unless somebody has said another one.
func atMost(t *testing.T, checks string) {
	t.Helper()
	_, set := os.LookupEnv("RAPID_CHECKS")
	flag.Visit(func(f *flag.Flag) { set = set || f.Name == "rapid.checks" })
	if set {
		return
	}
	before := flag.Lookup("rapid.checks").Value.String()
	// Not flag.Set: then it would be visited the next time.
	if err := flag.Lookup("rapid.checks").Value.Set(checks); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = flag.Lookup("rapid.checks").Value.Set(before) })
}

// allowed tells whether there are features without which less is tried.
func allowed(t *testing.T, features ...testutil.Feature) (ok bool) {
	t.Helper()
	for _, f := range features {
		ok = false
		t.Run(f.String(), func(t *testing.T) {
			testutil.Require(t, f)
			ok = true
		})
		if !ok {
			return false
		}
	}
	return true
}

// daemonProcess is a daemon: its arguments are the runtime directory, the file of its log and that of its configuration. It ends with its
// standard input, and by SIGTERM.
func daemonProcess() {
	log, err := os.OpenFile(os.Args[2], os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		panic(err)
	}
	c, err := config.Load(os.Args[3], true)
	if err == nil {
		err = runDaemon(daemon.Options{RuntimeDir: os.Args[1], Config: c, Version: "test", Log: zerolog.New(log).Level(c.LogLevel)})
	}
	if err != nil {
		fmt.Println("error:", err)
		os.Exit(1)
	}
}

func runDaemon(o daemon.Options) error {
	d, err := daemon.New(o)
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGTERM)
	defer stop()
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		stop()
	}()
	fmt.Println("ready")
	return errors.Join(d.Run(ctx), d.Close())
}
