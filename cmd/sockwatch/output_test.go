package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestNewOutput(t *testing.T) {
	terminal, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer terminal.Close()
	file, err := os.Create(filepath.Join(t.TempDir(), "file"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	for _, tt := range []struct {
		file          *os.File
		noColor, term string
		want          bool
	}{
		{terminal, "", "xterm", true},
		{terminal, "", "", true},
		{terminal, "1", "xterm", false},
		{terminal, "", "dumb", false},
		{file, "", "xterm", false},
	} {
		t.Setenv("NO_COLOR", tt.noColor)
		t.Setenv("TERM", tt.term)
		o := newOutput(tt.file)
		if o.colour != tt.want || o.terminal != (tt.file == terminal) {
			t.Errorf("%s, NO_COLOR=%s, TERM=%s: terminal %v, colour %v", tt.file.Name(), tt.noColor, tt.term, o.terminal, o.colour)
		}
	}
}

func TestPrintf(t *testing.T) {
	var b strings.Builder
	o := &output{w: &b}
	o.printf("%s %s %d %s %s\n", "a\x1b[2J\\", errors.New(`"x\x1b"`+"\r"), 7, word("dead"), 1500*time.Millisecond)
	want := `a\x1b[2J\\ "x\x1b"\r 7 dead 1.5s` + "\n"
	if b.String() != want {
		t.Errorf("got  %q\nwant %q", b.String(), want)
	}
	b.Reset()
	o.colour = true
	o.printf("%s %s\n", word("alive"), "alive")
	if want := "\x1b[32malive\x1b[39m alive\n"; b.String() != want {
		t.Errorf("got %q, want %q", b.String(), want)
	}
}

func TestTable(t *testing.T) {
	rows := func(o *output) {
		table := o.table("STATE", "HOLDERS", "PATH")
		table.row("alive", "", "/run/a\tb")
		table.row("unknown", "12 (x), 13 (y)", "/run/ü")
		table.flush()
	}
	want := "" +
		"STATE    HOLDERS         PATH\n" +
		"alive    -               /run/a\\tb\n" +
		"unknown  12 (x), 13 (y)  /run/ü\n"
	var b strings.Builder
	rows(&output{w: &b})
	if diff := cmp.Diff(want, b.String()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	b.Reset()
	rows(&output{w: &b, colour: true})
	if !strings.Contains(b.String(), "\x1b[32malive\x1b[39m") {
		t.Errorf("no colour: %q", b.String())
	}
	plain := strings.NewReplacer(colourNone, "", colourGreen, "", colourRed, "", colourYellow, "").Replace(b.String())
	if diff := cmp.Diff(want, plain); diff != "" {
		t.Errorf("colour moves the columns (-want +got):\n%s", diff)
	}
}

func TestObject(t *testing.T) {
	var b strings.Builder
	o := &output{w: &b, colour: true}
	for _, path := range []string{"/run/a&b", "/run/\xff\n"} {
		o.object(struct {
			jsonPath
			Time jsonTime `json:"time"`
		}{newJSONPath(path), jsonTime(time.Unix(0, 5000).In(time.FixedZone("", 3600)))})
	}
	want := `{"path":"/run/a&b","time":"1970-01-01T00:00:00.000005000Z"}
{"path":"/run/` + "\uFFFD" + `\n","path_b64":"L3J1bi//Cg==","time":"1970-01-01T00:00:00.000005000Z"}
`
	if diff := cmp.Diff(want, b.String()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if err := o.failed(); err != nil {
		t.Error(err)
	}
	if o.object(func() {}); o.failed() == nil {
		t.Error("what JSON cannot hold is no error")
	}
}

func TestOutputKeepsFirstError(t *testing.T) {
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer full.Close()
	o := &output{w: full}
	o.printf("lost\n")
	first := o.failed()
	o.object("lost too")
	o.fail(errors.New("second"))
	if first == nil || !errors.Is(o.failed(), first) {
		t.Errorf("first error %v, kept %v", first, o.failed())
	}
}

func TestLogEscapes(t *testing.T) {
	hostile := "a\x1b[2J\nb"
	for _, terminal := range []bool{false, true} {
		var b strings.Builder
		log := newLogger(&output{w: &b, terminal: terminal})
		log.Info().Msg("below the default level")
		log.Warn().Str("path", hostile).Err(fmt.Errorf("open %s", hostile)).Msg("kept")
		if got := b.String(); strings.Contains(got, "\x1b") || strings.Count(got, "\n") != 1 || !strings.Contains(got, "kept") {
			t.Errorf("terminal %v: %q", terminal, got)
		}
	}
}
