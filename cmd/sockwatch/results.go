package main

import (
	"errors"
	"fmt"
	"strings"

	"github.com/sockwatch/sockwatch/reap"
)

// whyKept says in a few words why a sock-file was kept. It is an error because output.printf prints those as sentences.
func whyKept(r reap.Result) error {
	s := r.Outcome.String()
	if r.Reason != reap.ReasonNone {
		s += ", " + string(r.Reason)
	}
	if r.Err != nil {
		s += fmt.Sprintf(" (%v)", r.Err)
	}
	return errors.New(s)
}

// printResult prints a Result as a line: the outcome, the path, and what else there is to say.
func (o *output) printResult(r reap.Result) {
	var more []string
	if r.Reason != reap.ReasonNone {
		more = append(more, string(r.Reason))
	}
	if r.Err != nil {
		more = append(more, oneLine(r.Err))
	}
	if r.DryRun {
		more = append(more, "dry run")
	}
	outcome := word(r.Outcome.String())
	column := strings.Repeat(" ", max(0, len("replaced")-len(outcome)))
	if len(more) == 0 {
		o.printf("%s"+column+"  %s\n", outcome, r.Path)
		return
	}
	o.printf("%s"+column+"  %s  (%s)\n", outcome, r.Path, errors.New(strings.Join(more, "; ")))
}

// oneLine is what an error says, and each of those that it joins, in one line.
func oneLine(err error) string { return strings.ReplaceAll(err.Error(), "\n", "; ") }

// jsonResult is a Result in the JSON interface, to be embedded.
type jsonResult struct {
	jsonPath
	Outcome string      `json:"outcome"`
	Reason  reap.Reason `json:"reason,omitempty"`
	Error   string      `json:"error,omitempty"`
	DryRun  bool        `json:"dry_run,omitempty"`
}

func newJSONResult(r reap.Result) jsonResult {
	j := jsonResult{jsonPath: newJSONPath(r.Path), Outcome: r.Outcome.String(), Reason: r.Reason, DryRun: r.DryRun}
	if r.Err != nil {
		j.Error = oneLine(r.Err)
	}
	return j
}
