package main

import (
	"os"
	"regexp"
	"strings"
	"testing"
)

// TestManPage holds the page to the few requests that it is made of: a line that begins with another one would vanish.
func TestManPage(t *testing.T) {
	request := regexp.MustCompile(`^\.(TH|SH|SS|PP|TP|EX|EE)( "[^"]*")*$`)
	root := newRootCmd(newApp(os.Stdout, os.Stderr))
	page := manPage(root)
	for line := range strings.SplitSeq(strings.TrimSuffix(page, "\n"), "\n") {
		if (strings.HasPrefix(line, ".") && !request.MatchString(line)) || strings.HasPrefix(line, "'") {
			t.Errorf("%q is no text", line)
		}
	}
	for _, sub := range root.Commands() {
		if sub.IsAvailableCommand() && !strings.Contains(page, `"sockwatch `+sub.Name()) {
			t.Errorf("%s is not in the page", sub.Name())
		}
	}
}

func TestPageEscapes(t *testing.T) {
	var p page
	p.line(`.hidden '\n --flag`)
	p.line("'quoted")
	p.macro("SS", `a "b"`)
	want := `\&.hidden \(aq\en \-\-flag` + "\n" + `\(aqquoted` + "\n" + `.SS "a \(dqb\(dq"` + "\n"
	if p.String() != want {
		t.Errorf("got  %q\nwant %q", p.String(), want)
	}
}
