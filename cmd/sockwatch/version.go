package main

import (
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"
)

func newVersionCmd(a *app) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "version [flags]",
		Short: "Print the version and what it was built from",
		Long: `Print the version, the Go release and the platform it was built with and for,
and the commit where the build knew it. Please add it to a report of a bug.`,
		Example: `  sockwatch version
  sockwatch version --json`,
		GroupID: groupProgram,
		Args:    noArgs,
		RunE: func(*cobra.Command, []string) error {
			b := readBuild()
			if asJSON {
				a.stdout.object(b)
				return nil
			}
			a.stdout.printf("sockwatch %s\n", b.Version)
			if b.Commit != "" {
				modified := ""
				if b.Modified {
					modified = ", modified"
				}
				a.stdout.printf("commit %s of %s%s\n", b.Commit, b.CommitTime, modified)
			}
			a.stdout.printf("%s %s/%s\n", b.Go, b.OS, b.Arch)
			return nil
		},
	}
	jsonFlag(cmd, &asJSON)
	return cmd
}

// build is what the program was built from. Its JSON names are an interface.
type build struct {
	Version    string `json:"version"`               // "(devel)" where the build knew none
	Commit     string `json:"commit,omitempty"`      // where the build knew it
	CommitTime string `json:"commit_time,omitempty"` // RFC 3339
	Modified   bool   `json:"modified,omitempty"`    // the work tree was not as committed
	Go         string `json:"go"`
	OS         string `json:"os"`
	Arch       string `json:"arch"`
}

func readBuild() build {
	b := build{Version: version(), Go: runtime.Version(), OS: runtime.GOOS, Arch: runtime.GOARCH}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return b
	}
	for _, s := range info.Settings {
		switch s.Key {
		case "vcs.revision":
			b.Commit = s.Value
		case "vcs.time":
			b.CommitTime = s.Value
		case "vcs.modified":
			b.Modified = s.Value == "true"
		}
	}
	return b
}

func version() string {
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return "(devel)"
}
