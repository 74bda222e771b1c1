package main

import (
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"
)

func newHelpCmd() *cobra.Command {
	return &cobra.Command{
		Use:     "help [COMMAND]...",
		Short:   "Print the help of a command",
		Long:    "Print the help of a command, as its --help does.",
		Example: "  sockwatch help version",
		GroupID: groupProgram,
		Args:    cobra.ArbitraryArgs,
		ValidArgsFunction: func(cmd *cobra.Command, args []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
			about, rest, err := cmd.Root().Find(args)
			if err != nil || len(rest) > 0 {
				return nil, cobra.ShellCompDirectiveNoFileComp
			}
			var names []cobra.Completion
			for _, sub := range about.Commands() {
				if sub.IsAvailableCommand() {
					names = append(names, cobra.CompletionWithDesc(sub.Name(), sub.Short))
				}
			}
			return names, cobra.ShellCompDirectiveNoFileComp
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			about, rest, err := cmd.Root().Find(args)
			if err != nil {
				return err
			}
			if len(rest) > 0 {
				return unknownCommand(about, rest[0])
			}
			return about.Help()
		},
	}
}

// helpWidth is that of the narrowest terminal anybody still uses; longer lines are harder to read on a wider one too.
const helpWidth = 80

// writeHelp is the whole help of a command.
func writeHelp(w io.Writer, cmd *cobra.Command) {
	var b strings.Builder
	for i, p := range paragraphs(description(cmd)) {
		if i > 0 {
			b.WriteByte('\n')
		}
		for _, block := range p {
			if block.kept {
				b.WriteString(strings.Join(block.lines, "\n") + "\n")
			} else {
				b.WriteString(fill(strings.Join(block.lines, " "), helpWidth))
			}
		}
	}
	fmt.Fprintln(w, b.String())
	_ = writeUsage(w, cmd) // w is an output: it keeps the error
}

func description(cmd *cobra.Command) string {
	if cmd.Long != "" {
		return cmd.Long
	}
	return cmd.Short
}

// writeUsage is the help without the description.
func writeUsage(w io.Writer, cmd *cobra.Command) error {
	var b strings.Builder
	fmt.Fprintf(&b, "Usage:\n  %s\n", cmd.UseLine())
	for _, s := range sections(cmd) {
		fmt.Fprintf(&b, "\n%s:\n", s.title)
		for _, sub := range s.commands {
			fmt.Fprintf(&b, "  %-12s %s\n", sub.Name(), sub.Short)
		}
	}
	if cmd.HasExample() {
		fmt.Fprintf(&b, "\nExamples:\n%s\n", cmd.Example)
	}
	if cmd.HasAvailableLocalFlags() {
		fmt.Fprintf(&b, "\nFlags:\n%s", cmd.LocalFlags().FlagUsagesWrapped(helpWidth))
	}
	if cmd.HasAvailableInheritedFlags() {
		fmt.Fprintf(&b, "\nFlags of every command:\n%s", cmd.InheritedFlags().FlagUsagesWrapped(helpWidth))
	}
	if cmd.HasAvailableSubCommands() {
		fmt.Fprintf(&b, "\nMore about a command: %s COMMAND --help\n", cmd.CommandPath())
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// section is a group of subcommands under a title.
type section struct {
	title    string
	commands []*cobra.Command
}

// sections gives the subcommands that help lists, by group; those of no group come last.
func sections(cmd *cobra.Command) []section {
	var all []section
	groups := append(cmd.Groups(), &cobra.Group{Title: "Commands"})
	for _, g := range groups {
		s := section{title: g.Title}
		for _, sub := range cmd.Commands() {
			if sub.IsAvailableCommand() && sub.GroupID == g.ID {
				s.commands = append(s.commands, sub)
			}
		}
		if len(s.commands) > 0 {
			all = append(all, s)
		}
	}
	return all
}
