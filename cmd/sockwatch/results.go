package main

import (
	"fmt"

	"github.com/sockwatch/sockwatch/reap"
)

// whyKept says in a few words why a sock-file was kept.
func whyKept(r reap.Result) string {
	s := r.Outcome.String()
	if r.Reason != reap.ReasonNone {
		s += ", " + string(r.Reason)
	}
	if r.Err != nil {
		s += fmt.Sprintf(" (%v)", r.Err)
	}
	return s
}
