package main

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/sockwatch/sockwatch/internal/config"
)

func newConfigCmd(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:        "config COMMAND",
		Short:      "Check the daemon's configuration",
		SuggestFor: []string{"configuration", "settings"},
		GroupID:    groupDaemon,
		Long: `The daemon's configuration is a TOML file: what to do with which sock-files,
which directories to watch, where to serve metrics. The daemon runs without one,
too. It is

    /etc/sockwatch/sockwatch.toml              for root
    $XDG_CONFIG_HOME/sockwatch/sockwatch.toml  for others; unset: ~/.config

A file with a key that is not known, or with a value that cannot be, is refused
as a whole. The daemon reads it when it starts and on SIGHUP.`,
		Example: `  # Would the daemon take it?
  sockwatch config check`,
		Args: cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return unknownCommand(cmd, args[0])
			}
			return cmd.Help()
		},
	}
	cmd.AddCommand(newConfigCheckCmd(a))
	return cmd
}

func newConfigCheckCmd(a *app) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "check [flags] [FILE]",
		Short: "Tell what is wrong with a configuration, and where",
		Long: `Read the configuration FILE as the daemon would, without FILE the one that the
daemon of this user reads, and tell all that is wrong with it, in lines of

    FILE:LINE:COLUMN: KEY: what is wrong, and what would be right

on standard error. It does not look whether directories exist or an address is
free.

The exit status is 1 if something is wrong, or the file cannot be read. Where
FILE is not given, a missing one is right: the defaults hold.`,
		Example: `  # Is it right? Then have the daemon read it
  sockwatch config check && systemctl reload sockwatch

  # One that is not in its place yet
  sockwatch config check ./sockwatch.toml`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) > 1 {
				return usagef("it takes one FILE, and got %d", len(args))
			}
			return nil
		},
		RunE: func(_ *cobra.Command, args []string) error {
			if len(args) == 1 {
				return a.checkConfig(args[0], true, asJSON)
			}
			file, err := config.DefaultPath()
			if err != nil {
				return err
			}
			return a.checkConfig(file, false, asJSON)
		},
		ValidArgsFunction: func(_ *cobra.Command, args []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
			if len(args) > 0 {
				return nil, cobra.ShellCompDirectiveNoFileComp
			}
			return nil, cobra.ShellCompDirectiveDefault
		},
	}
	jsonFlag(cmd, &asJSON)
	return cmd
}

// jsonConfig is what config check prints of a file.
type jsonConfig struct {
	jsonPath
	OK         bool          `json:"ok"`
	Missing    bool          `json:"missing,omitempty"`
	Rules      int           `json:"rules"`
	Bindspaces int           `json:"bindspaces"`
	Problems   []jsonProblem `json:"problems,omitempty"`
}

type jsonProblem struct {
	Line   int    `json:"line"`
	Column int    `json:"column"`
	Key    string `json:"key,omitempty"`
	Error  string `json:"error"`
}

func (a *app) checkConfig(file string, explicit, asJSON bool) error {
	c, err := config.Load(file, explicit)
	var wrong *config.Error
	if err != nil && !errors.As(err, &wrong) {
		return err
	}
	if asJSON {
		j := jsonConfig{
			jsonPath: newJSONPath(file), OK: err == nil, Missing: err == nil && c.File == "",
			Rules: len(c.Rules), Bindspaces: len(c.Bindspaces),
		}
		if wrong != nil {
			for _, p := range wrong.Problems {
				j.Problems = append(j.Problems, jsonProblem{p.Line, p.Column, p.Key, p.Msg})
			}
		}
		a.stdout.object(j)
	}
	switch {
	case wrong != nil && !asJSON:
		a.complainConfig(wrong)
		fallthrough
	case wrong != nil:
		return exitWith(statusFailed, nil)
	case asJSON:
	case c.File == "":
		a.stdout.printf("%s: it is missing, the defaults hold\n", file)
	default:
		a.stdout.printf("%s: ok (%s, %s)\n", file, counted(len(c.Rules), "rule"), counted(len(c.Bindspaces), "bindspace"))
	}
	return nil
}

// counted is "1 rule", "2 rules".
func counted(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// complainConfig tells what is wrong with a configuration.
func (a *app) complainConfig(wrong *config.Error) {
	for _, p := range wrong.Problems {
		// Not by complain: editors go by the file's name at the beginning of the line.
		a.stderr.printf("%s:%d:%d: %s\n", wrong.File, p.Line, p.Column, errors.New(p.String()))
	}
}
