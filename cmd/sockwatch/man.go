package main

import (
	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"
)

// newManCmd is for packagers: the manual pages come from the same texts as the help and cannot differ from it.
func newManCmd() *cobra.Command {
	return &cobra.Command{
		Use:     "man DIR",
		Short:   "Write the manual pages",
		Long:    "Write the manual pages, one for each command, into the directory DIR.",
		Example: "  sockwatch man /usr/local/share/man/man1",
		GroupID: groupProgram,
		Hidden:  true,
		Args:    oneArg("DIR"),
		RunE: func(cmd *cobra.Command, args []string) error {
			root := cmd.Root()
			root.DisableAutoGenTag = true
			return doc.GenManTree(root, &doc.GenManHeader{Source: "sockwatch " + root.Version, Manual: "sockwatch"}, args[0])
		},
		ValidArgsFunction: completeDirs,
	}
}
