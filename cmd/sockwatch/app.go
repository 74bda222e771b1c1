package main

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/rs/zerolog"
)

// app is what every subcommand has in hand.
type app struct {
	stdout *output        // data
	stderr *output        // diagnostics; see complain
	log    zerolog.Logger // for the libraries, at the level of --log-level

	started bool // a subcommand's own code has begun: what fails from then on is no longer wrong usage
}

func newApp(stdout, stderr *os.File) *app {
	a := &app{stdout: newOutput(stdout), stderr: newOutput(stderr)}
	a.log = newLogger(a.stderr)
	return a
}

// complain prints one diagnostic line, "sockwatch: ...". It takes what output.printf takes. A subcommand that goes on
// after a failure says so with it, and returns the exit status at the end.
func (a *app) complain(format string, args ...any) {
	a.stderr.printf("sockwatch: "+format+"\n", args...)
}

// newLogger logs in console form to a terminal and in JSON lines elsewhere.
func newLogger(stderr *output) zerolog.Logger {
	zerolog.TimeFieldFormat = time.RFC3339Nano
	if stderr.terminal {
		return zerolog.New(zerolog.ConsoleWriter{
			Out:        stderr,
			NoColor:    !stderr.colour,
			TimeFormat: "15:04:05.000",
		}).With().Timestamp().Logger().Level(zerolog.WarnLevel)
	}
	return zerolog.New(stderr).With().Timestamp().Logger().Level(zerolog.WarnLevel)
}

// logLevels are the values of --log-level.
var logLevels = []string{"debug", "info", "warn", "error"}

// logLevel is the value of --log-level: it sets the level of the app's logger.
type logLevel struct{ log *zerolog.Logger }

func (l logLevel) String() string {
	if l.log == nil { // pflag asks the zero value, to see whether the default is worth showing
		return ""
	}
	return l.log.GetLevel().String()
}

func (l logLevel) Set(s string) error {
	if !slices.Contains(logLevels, s) {
		return fmt.Errorf("the levels are %s", strings.Join(logLevels, ", "))
	}
	level, err := zerolog.ParseLevel(s)
	if err != nil {
		return err
	}
	*l.log = l.log.Level(level)
	return nil
}

func (l logLevel) Type() string { return "LEVEL" }
