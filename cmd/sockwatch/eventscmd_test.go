package main

import "testing"

// TestEventTime: what is no time is shown as it is.
func TestEventTime(t *testing.T) {
	if got := eventTime("\x1b"); got != "\x1b" {
		t.Errorf("%q", got)
	}
}
