package main

import (
	"slices"
	"testing"

	"github.com/sockwatch/sockwatch/client"
	"github.com/sockwatch/sockwatch/pidfd"
)

func TestOwnersMeant(t *testing.T) {
	owners := []client.Owner{
		{ID: "old", Process: "7:70", Ended: true},
		{ID: "new", Process: "7:71"},
		{ID: "new of root", Process: "7:71"},
		{ID: "ticks", Process: "8:t80", Ended: true},
		{ID: "strange", Process: "x"},
	}
	for arg, want := range map[string][]string{
		"7":     {"new", "new of root"},
		"7:70":  {"old"},
		"7:71":  {"new", "new of root"},
		"7:72":  nil,
		"7:t70": nil,
		"8":     {"ticks"},
		"8:t80": {"ticks"},
		"8:t81": nil,
		"8:80":  nil,
		"70":    nil,
	} {
		id, err := pidfd.ParseIdentity(arg)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, o := range ownersMeant(owners, id) {
			got = append(got, o.ID)
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s: %q, want %q", arg, got, want)
		}
	}
}
