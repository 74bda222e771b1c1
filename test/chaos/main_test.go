package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"testing"

	"github.com/rs/zerolog"
	"golang.org/x/sys/unix"

	"github.com/sockwatch/sockwatch/daemon"
	"github.com/sockwatch/sockwatch/internal/config"
	"github.com/sockwatch/sockwatch/internal/testutil"
)

func TestMain(m *testing.M) {
	if name, ok := os.LookupEnv(roleEnv); ok {
		play(name)
	}
	testutil.Main(m, testutil.Helpers{"daemon": daemonProcess})
}

// daemonProcess is what `sockwatch daemon` is. Its arguments are --runtime-dir DIR --config FILE.
func daemonProcess() {
	if err := runDaemon(os.Args[2], os.Args[4]); err != nil {
		fmt.Fprintln(os.Stderr, "daemon:", err)
		os.Exit(1)
	}
}

func runDaemon(dir, file string) error {
	c, err := config.Load(file, true)
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGTERM)
	defer stop()
	log := zerolog.New(os.Stderr).Level(c.LogLevel)
	d, err := daemon.New(daemon.Options{RuntimeDir: dir, Config: c, Version: "test", Log: log})
	if err != nil {
		return err
	}
	return errors.Join(d.Run(ctx), d.Close())
}
