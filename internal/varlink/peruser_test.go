package varlink

import (
	"testing"
	"time"
)

func TestPerUser(t *testing.T) {
	var p PerUser
	start := time.Now()
	want := func(uid uint32, after time.Duration, ok bool, leftOut int) {
		t.Helper()
		if gotOK, got := p.sayAt(uid, start.Add(after)); gotOK != ok || got != leftOut {
			t.Errorf("%v, %d; want %v, %d", gotOK, got, ok, leftOut)
		}
	}
	for range mostSaid {
		want(1, 0, true, 0)
	}
	want(1, saidPeriod-1, false, 0)
	want(1, saidPeriod-1, false, 0)
	want(2, saidPeriod-1, true, 0)
	want(2, saidPeriod, true, 2)
	want(1, saidPeriod, true, 0)
}
