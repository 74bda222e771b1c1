package main

import (
	"fmt"

	"github.com/sockwatch/sockwatch/reap"
)

// A strategy is a way to remove a dead sock-file and never a live one.
type strategy struct {
	name    string
	control bool // it fails at that, and is here to be caught
	// claim takes hold of what has the path now. fs.ErrNotExist: nothing has.
	claim func(path string) (claim, error)
}

// A claim is a sock-file that is to be removed when it is dead.
type claim interface {
	// alive probes it. What was seen alive and is dead later is so for good, and remove may rely on that.
	alive() bool
	remove() (removed bool, err error)
	close()
}

// sockwatch is what this is all about.
var sockwatch = strategy{name: "sockwatch", claim: func(path string) (claim, error) {
	f, err := reap.Open(path)
	return fileClaim{f}, err
}}

type fileClaim struct{ *reap.File }

func (c fileClaim) alive() bool {
	state, _ := c.Probe()
	return state == reap.StateAlive
}

func (c fileClaim) remove() (bool, error) {
	r := c.Remove(reap.RemoveOptions{})
	if !r.Outcome.OK() {
		return false, fmt.Errorf("%v %s: %w", r.Outcome, r.Reason, r.Err)
	}
	return r.Outcome == reap.OutcomeRemoved, nil
}

func (c fileClaim) close() { _ = c.Close() }
