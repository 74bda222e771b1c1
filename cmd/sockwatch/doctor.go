package main

import (
	"errors"
	"slices"
	"strings"

	"github.com/spf13/cobra"
)

func newDoctorCmd(a *app) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:        "doctor [flags] [DIR]...",
		Short:      "Tell what works here, what does not, and what comes of that",
		SuggestFor: []string{"features", "selftest", "info"},
		GroupID:    groupProgram,
		Long: `Find out what this kernel, this user and the directories DIR allow sockwatch to
do. Without DIR it is the directory that 'sockwatch ls' lists, if there is one.
Each thing is tried, not taken from the kernel's version:

    ok       it works
    limited  it works in part, or something slower or weaker takes its place
    missing  it does not work

The line below says what comes of it. In a directory that may be written to, a
file is made under a private name, renamed and removed.

With --json it is one object each: check, status, detail, effect, and path for
those of a directory.

The exit status is 1 if something is missing without which nothing is removed
(pidfd, procfs), or if a directory cannot be opened.`,
		Example: `  # Does it work here?
  sockwatch doctor

  # Would dead sock-files be removed from there? And as root?
  sockwatch doctor /var/lib/myapp
  sudo sockwatch doctor /var/lib/myapp

  # What is missing, for a script
  sockwatch doctor --json | jq -r 'select(.status == "missing").check'`,
		Args: cobra.ArbitraryArgs,
		RunE: func(_ *cobra.Command, args []string) error {
			if len(args) == 0 {
				if dir, err := defaultDir(); err == nil {
					args = []string{dir}
				}
			}
			d := doctor{app: a, asJSON: asJSON}
			d.report("", examineMachine())
			for _, dir := range args {
				d.report(dir, examineDir(dir))
			}
			if d.failed {
				return exitWith(statusFailed, nil)
			}
			return nil
		},
		ValidArgsFunction: completeDirs,
	}
	jsonFlag(cmd, &asJSON)
	return cmd
}

// finding is the answer to one question, and an object of the JSON interface.
type finding struct {
	*jsonPath        // of a directory
	Check     string `json:"check"`
	Status    string `json:"status"`
	Detail    string `json:"detail"`
	Effect    string `json:"effect"` // what comes of it; "" when it is ok

	essential bool // without it nothing is removed
}

// The statuses of findings.
const (
	statusOK      = "ok"
	statusLimited = "limited"
	statusMissing = "missing"
)

func ok(check, detail string) finding {
	return finding{Check: check, Status: statusOK, Detail: detail}
}

func limited(check, detail, effect string) finding {
	return finding{Check: check, Status: statusLimited, Detail: detail, Effect: effect}
}

func missing(check, detail, effect string) finding {
	return finding{Check: check, Status: statusMissing, Detail: detail, Effect: effect}
}

// works is ok without an error, and missing with one.
func works(check, detail string, err error, effect string) finding {
	if err != nil {
		return missing(check, detail+": "+oneLine(err), effect)
	}
	return ok(check, detail)
}

// doctor prints findings.
type doctor struct {
	app    *app
	asJSON bool
	failed bool
}

func (d *doctor) report(dir string, findings []finding) {
	out := d.app.stdout
	d.failed = d.failed || slices.ContainsFunc(findings, func(f finding) bool { return f.essential && f.Status == statusMissing })
	if d.asJSON {
		for _, f := range findings {
			if dir != "" {
				path := newJSONPath(dir)
				f.jsonPath = &path
			}
			out.object(f)
		}
		return
	}
	if dir != "" {
		out.printf("\n%s\n", dir)
	}
	for _, f := range findings {
		column := strings.Repeat(" ", len(statusLimited)-len(f.Status))
		out.printf("%s"+column+"  %-16s  %s\n", word(f.Status), f.Check, errors.New(f.Detail))
		if f.Effect != "" {
			out.printf("%27s%s\n", "", errors.New("-> "+f.Effect))
		}
	}
}
