package main

import (
	"bytes"
	"embed"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"
)

// manPages are made from the help by TestManPages. Making them here would have every start of the program pay for what makes them.
//
//go:embed man
var manPages embed.FS

// newManCmd is for packagers.
func newManCmd() *cobra.Command {
	return &cobra.Command{
		Use:     "man DIR",
		Short:   "Write the manual pages",
		Long:    "Write the manual pages, one for each command, into the directory DIR.",
		Example: "  sockwatch man /usr/local/share/man/man1",
		GroupID: groupProgram,
		Hidden:  true,
		Args:    oneArg("DIR"),
		RunE: func(_ *cobra.Command, args []string) error {
			pages, err := fs.Sub(manPages, "man")
			if err != nil {
				return err
			}
			return fs.WalkDir(pages, ".", func(name string, entry fs.DirEntry, err error) error {
				if err != nil || entry.IsDir() {
					return err
				}
				page, err := fs.ReadFile(pages, name)
				if err != nil {
					return err
				}
				page = bytes.Replace(page, []byte(`"sockwatch" "sockwatch"`), []byte(`"sockwatch `+version()+`" "sockwatch"`), 1)
				return os.WriteFile(filepath.Join(args[0], name), page, 0o644)
			})
		},
		ValidArgsFunction: completeDirs,
	}
}
