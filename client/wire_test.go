package client

import (
	"reflect"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestDescription: the types of Go are those of the description.
func TestDescription(t *testing.T) {
	for opening, v := range map[string]any{
		"type Claim (":         Claim{},
		"type Owner (":         Owner{},
		"type Event (":         Event{},
		"method Watch(":        WatchRequest{},
		"method Status() -> (": Status{},
	} {
		_, rest, ok := strings.Cut(Description, "\n"+opening+"\n")
		if !ok {
			t.Errorf("there is no %q in it", opening)
			continue
		}
		body, _, _ := strings.Cut(rest, "\n)")
		declared := map[string]bool{} // to whether it may be missing
		for line := range strings.SplitSeq(body, "\n") {
			name, kind, _ := strings.Cut(strings.TrimSuffix(strings.TrimSpace(line), ","), ": ")
			declared[name] = strings.HasPrefix(kind, "?")
		}
		got := map[string]bool{}
		fields(reflect.TypeOf(v), got)
		if opening == "type Claim (" {
			got["path"] = false // which is shared with Event, where there need be none
		}
		if diff := cmp.Diff(declared, got); diff != "" {
			t.Errorf("%s: -described +in Go\n%s", opening, diff)
		}
	}
}

func fields(of reflect.Type, to map[string]bool) {
	for i := range of.NumField() {
		f := of.Field(i)
		if f.Anonymous {
			fields(f.Type, to)
			continue
		}
		name, options, _ := strings.Cut(f.Tag.Get("json"), ",")
		to[name] = options == "omitempty"
	}
}

func TestExact(t *testing.T) {
	for want, p := range map[string]Path{
		"/a":    {Path: "/a"},
		"/\xff": {Path: "/\uFFFD", PathB64: "L/8="},
		"/b":    {Path: "/b", PathB64: "?"},
	} {
		if got := p.Exact(); got != want {
			t.Errorf("%+v: %q, want %q", p, got, want)
		}
	}
}
