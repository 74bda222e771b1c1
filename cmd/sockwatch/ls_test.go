package main

import (
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/sockwatch/sockwatch/internal/testutil"
)

// listen makes a sock-file, whose socket ends with the test, or leaves it dead.
func listen(t *testing.T, path string, dead bool) {
	t.Helper()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	if dead {
		l.Close()
	} else {
		t.Cleanup(func() { l.Close() })
	}
}

// TestLsMany: more files than are sorted and printed at once, and more live ones than are searched for at once.
func TestLsMany(t *testing.T) {
	dir := testutil.TempDir(t)
	const dead, live = listBatch/2 + 1, holderBatch/2 + 1
	want := map[string][]string{}
	for _, sub := range []string{"a", "b", "c"} {
		space := filepath.Join(dir, sub)
		if err := os.Mkdir(space, 0o700); err != nil {
			t.Fatal(err)
		}
		for i := range dead + live {
			path := fmt.Sprintf("%s/%05d", space, i*7919%(dead+live))
			listen(t, path, i < dead)
			want[space] = append(want[space], path)
		}
		slices.Sort(want[space])
	}

	var b strings.Builder
	a := &app{stdout: &output{w: &b}, stderr: &output{w: t.Output()}}
	l := lister{app: a, recursive: true, asJSON: true}
	if err := l.list(t.Context(), []string{dir}); err != nil {
		t.Fatal(err)
	}
	got := map[string][]string{}
	alive := 0
	for line := range strings.Lines(b.String()) {
		var s struct {
			Path, State, Type string
			Holders           []struct{ PID int }
		}
		if err := json.Unmarshal([]byte(line), &s); err != nil {
			t.Fatal(err)
		}
		got[filepath.Dir(s.Path)] = append(got[filepath.Dir(s.Path)], s.Path)
		if s.State == "alive" {
			alive++
			if s.Type != "stream" || len(s.Holders) != 1 || s.Holders[0].PID != os.Getpid() {
				t.Errorf("%+v", s)
			}
		}
	}
	for space, paths := range want {
		if !slices.Equal(got[space], paths) {
			t.Errorf("%s: %d files, want %d, sorted", space, len(got[space]), len(paths))
		}
	}
	if alive != 3*live {
		t.Errorf("%d are alive, want %d", alive, 3*live)
	}
}

func TestAge(t *testing.T) {
	for age, want := range map[float64]string{
		-1: "0s", 0.4: "0s", 59.9: "59s", 60: "1m", 3599: "59m", 3600: "1h", 86399: "23h", 86400: "1d", 864000: "10d",
	} {
		if got := (&sockFile{AgeS: age}).age(); got != want {
			t.Errorf("%v s: %s, want %s", age, got, want)
		}
	}
}

func TestHoldersOfMany(t *testing.T) {
	s := &sockFile{}
	for pid := range 5 {
		s.Holders = append(s.Holders, holder{PID: pid, Comm: "x", UID: 4294967294})
	}
	if got, want := s.holders(), "0 x (4294967294), 1 x (4294967294), 2 x (4294967294) and 2 more"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}
