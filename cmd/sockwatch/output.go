package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"text/tabwriter"
	"time"
	"unicode/utf8"

	"github.com/spf13/cobra"
	"golang.org/x/term"
)

// output is standard output or standard error. The first error of writing is kept and everything after it is dropped: run
// asks failed once, subcommands need not. It is safe for concurrent use; a call's lines stay together.
//
// File names and process names are chosen by others and reach a terminal here. Text goes through printf or a table, which
// escape it.
type output struct {
	terminal bool
	colour   bool

	mu  sync.Mutex
	w   io.Writer
	err error
}

// newOutput uses colour on a terminal only, and never with NO_COLOR (https://no-color.org) or on a dumb one.
func newOutput(f *os.File) *output {
	terminal := term.IsTerminal(int(f.Fd()))
	return &output{
		w:        f,
		terminal: terminal,
		colour:   terminal && os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb",
	}
}

// Write is for what writes by itself: cobra, the logger. It escapes nothing.
func (o *output) Write(p []byte) (n int, err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.err == nil {
		n, o.err = o.w.Write(p)
	}
	return n, o.err
}

// failed gives the first error of writing.
func (o *output) failed() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.err
}

// fail keeps err where it is the first.
func (o *output) fail(err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.err == nil {
		o.err = err
	}
}

// printf is fmt.Fprintf with its arguments made fit for a terminal: strings and what has a String method as names (see
// escapeName), errors as sentences (see escapeText), words in their colour. Use %s for them, not %q.
func (o *output) printf(format string, args ...any) {
	fit := make([]any, len(args))
	for i, arg := range args {
		switch v := arg.(type) {
		case word:
			fit[i] = o.paint(string(v), colours[v])
		case string:
			fit[i] = escapeName(v)
		case error:
			fit[i] = escapeText(v.Error())
		case fmt.Stringer:
			fit[i] = escapeName(v.String())
		default:
			fit[i] = v
		}
	}
	// One write per call: lines of several processes on one terminal do not mix.
	fmt.Fprintf(o, format, fit...)
}

// object prints v as one line of JSON, which a terminal may show.
func (o *output) object(v any) {
	var line strings.Builder
	enc := json.NewEncoder(&line)
	enc.SetEscapeHTML(false) // paths hold & and <, and this is no web page
	if err := enc.Encode(v); err != nil {
		o.fail(err)
		return
	}
	_, _ = io.WriteString(o, escapeJSON(line.String()))
}

// jsonFlag gives a command that reads its --json. With it the command prints by output.object only, and the names in
// its objects are documented.
func jsonFlag(cmd *cobra.Command, to *bool) {
	cmd.Flags().BoolVar(to, "json", false, "print JSON, one object per line")
}

// jsonPath is a path in a JSON object, to be embedded: JSON holds only text, and a path may be any bytes.
type jsonPath struct {
	Path    string `json:"path"`               // with U+FFFD for what is not UTF-8
	PathB64 []byte `json:"path_b64,omitempty"` // the exact bytes, in base64, where Path cannot hold them
}

func newJSONPath(path string) jsonPath {
	if utf8.ValidString(path) {
		return jsonPath{Path: path}
	}
	return jsonPath{Path: strings.ToValidUTF8(path, "\uFFFD"), PathB64: []byte(path)}
}

// jsonTime is a time in a JSON object: RFC 3339 in UTC with all nine digits of the nanoseconds, so that lines sort by it.
type jsonTime time.Time

// MarshalText gives the time.
func (t jsonTime) MarshalText() ([]byte, error) { //nolint:unparam // encoding.TextMarshaler has it so
	return time.Time(t).UTC().AppendFormat(nil, "2006-01-02T15:04:05.000000000Z07:00"), nil
}

// word is a name of a state, outcome or verdict, in its colour.
type word string

// The codes of all colours are of one length, and so is that of none: a column stays straight.
const (
	colourNone   = "\x1b[39m"
	colourRed    = "\x1b[31m"
	colourGreen  = "\x1b[32m"
	colourYellow = "\x1b[33m"
)

var colours = map[word]string{
	"alive":    colourGreen,
	"removed":  colourGreen,
	"gone":     colourGreen,
	"keep":     colourGreen,
	"dead":     colourRed,
	"remove":   colourRed,
	"failed":   colourRed,
	"unknown":  colourYellow,
	"refused":  colourYellow,
	"replaced": colourYellow,
}

func (o *output) paint(s, colour string) string {
	if !o.colour {
		return s
	}
	if colour == "" {
		colour = colourNone
	}
	return colour + s + colourNone
}

// table prints rows in straight columns, when it is flushed. The columns headed STATE and OUTCOME are painted.
type table struct {
	out     *output
	tw      *tabwriter.Writer
	painted []bool
}

func (o *output) table(headers ...string) *table {
	t := &table{out: o, tw: tabwriter.NewWriter(o, 0, 0, 2, ' ', 0), painted: make([]bool, len(headers))}
	for i, h := range headers {
		t.painted[i] = h == "STATE" || h == "OUTCOME"
	}
	t.row(headers...)
	return t
}

// row adds a row: one cell for each header. Empty cells are shown as "-", so that a row can be taken apart again.
func (t *table) row(cells ...string) {
	line := make([]string, len(cells))
	for i, cell := range cells {
		if cell == "" {
			cell = "-"
		}
		line[i] = escapeName(cell)
		if t.painted[i] {
			line[i] = t.out.paint(line[i], colours[word(cell)])
		}
	}
	fmt.Fprintln(t.tw, strings.Join(line, "\t")) // the output keeps the error
}

func (t *table) flush() { t.tw.Flush() }

// exact is the path, byte by byte.
func (p *jsonPath) exact() string {
	if p.PathB64 != nil {
		return string(p.PathB64)
	}
	return p.Path
}
