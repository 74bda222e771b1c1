package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// newManCmd is for packagers: the manual page comes from the same texts as the help and cannot differ from it. It is made
// here and not by cobra/doc, which takes the texts for Markdown and brings a Markdown parser with it.
func newManCmd(a *app) *cobra.Command {
	return &cobra.Command{
		Use:     "man",
		Short:   "Print the manual page",
		Long:    "Print the manual page sockwatch(1), in the format of man(7), on standard output.",
		Example: "  sockwatch man > sockwatch.1\n  sockwatch man | man -l -",
		GroupID: groupProgram,
		Hidden:  true,
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, err := a.stdout.Write([]byte(manPage(cmd.Root())))
			return err
		},
	}
}

func manPage(root *cobra.Command) string {
	var p page
	p.macro("TH", "SOCKWATCH", "1", "", "sockwatch "+root.Version, "User Commands")
	p.macro("SH", "NAME")
	p.line("sockwatch - " + root.Short)
	p.macro("SH", "SYNOPSIS")
	p.verbatim([]string{root.UseLine()})
	p.macro("SH", "DESCRIPTION")
	p.text(description(root))
	p.macro("SH", "OPTIONS")
	p.flags(root.LocalFlags())
	p.macro("SH", "COMMANDS")
	for _, s := range sections(root) {
		for _, sub := range s.commands {
			p.command(sub)
		}
	}
	p.macro("SH", "EXAMPLES")
	p.examples(root)
	return p.String()
}

// page is the source of a manual page, man(7).
type page struct{ strings.Builder }

func (p *page) command(cmd *cobra.Command) {
	p.macro("SS", cmd.UseLine())
	p.text(description(cmd))
	for _, s := range sections(cmd) {
		for _, sub := range s.commands {
			p.macro("TP")
			p.line(sub.Name())
			p.line(sub.Short)
		}
	}
	p.flags(cmd.NonInheritedFlags())
	p.examples(cmd)
}

func (p *page) examples(cmd *cobra.Command) {
	if cmd.HasExample() {
		p.macro("PP")
		p.verbatim(strings.Split(cmd.Example, "\n"))
	}
}

func (p *page) flags(flags *pflag.FlagSet) {
	flags.VisitAll(func(f *pflag.Flag) {
		if f.Hidden || f.Name == "help" {
			return
		}
		name, usage := pflag.UnquoteUsage(f)
		tag := "--" + f.Name
		if f.Shorthand != "" {
			tag = "-" + f.Shorthand + ", " + tag
		}
		if name != "" {
			tag += " " + name
		}
		p.macro("TP")
		p.line(tag)
		p.line(usage)
	})
}

func (p *page) text(s string) {
	for _, paragraph := range paragraphs(s) {
		p.macro("PP")
		for _, block := range paragraph {
			if block.kept {
				p.verbatim(block.lines)
				continue
			}
			for _, line := range block.lines {
				p.line(line)
			}
		}
	}
}

func (p *page) verbatim(lines []string) {
	p.macro("EX")
	for _, line := range lines {
		p.line(line)
	}
	p.macro("EE")
}

var roff = strings.NewReplacer(`\`, `\e`, `-`, `\-`, `'`, `\(aq`, "`", "\\(ga", `^`, `\(ha`, `~`, `\(ti`)

// line gives one line of text. One that begins with a dot would be a macro.
func (p *page) line(s string) {
	s = roff.Replace(s)
	if strings.HasPrefix(s, ".") {
		s = `\&` + s
	}
	p.WriteString(s + "\n")
}

func (p *page) macro(name string, args ...string) {
	p.WriteString("." + name)
	for _, arg := range args {
		fmt.Fprintf(p, ` "%s"`, strings.ReplaceAll(roff.Replace(arg), `"`, `\(dq`))
	}
	p.WriteByte('\n')
}
