package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"text/tabwriter"
)

// record is what a part has measured, as it is kept in a file of its own, bench/results/PART.json: the document and the pictures are made
// of these files. tools/plot reads what is Pictures.
type record struct {
	Part     string    `json:"part"`
	Command  string    `json:"command"` // that measures it again
	Date     string    `json:"date"`
	Machine  string    `json:"machine"`
	Versions string    `json:"versions,omitempty"` // of what it is compared with
	Load     [2]string `json:"load"`               // the load average before and after
	Targets  []target  `json:"targets,omitempty"`
	Tables   []table   `json:"tables,omitempty"`
	Pictures []picture `json:"pictures,omitempty"`
	LeftOut  []string  `json:"left_out,omitempty"` // what was not measured, and why
}

// target is what is to be reached.
type target struct {
	What   string `json:"what"`
	Target string `json:"target"`
	Is     string `json:"is"`
	Missed bool   `json:"missed,omitempty"`
}

// atMost is a target that a value must not exceed.
func atMost(what string, is, limit float64, shown func(float64) string) target {
	return target{What: what, Target: shown(limit), Is: shown(is), Missed: is > limit}
}

// String has it as it is in a table's cell.
func (t target) String() string {
	if t.Missed {
		return t.Is + " MISSED"
	}
	return t.Is
}

// table has its numbers as they are shown.
type table struct {
	Name    string     `json:"name"`
	Columns []string   `json:"columns"`
	Rows    [][]string `json:"rows"`
}

func (t *table) add(cells ...string) { t.Rows = append(t.Rows, cells) }

// picture is drawn by tools/plot.
type picture struct {
	Name   string   `json:"name"` // of the file, without .svg
	Kind   string   `json:"kind"`
	Title  string   `json:"title"`
	X      string   `json:"x"`
	Y      string   `json:"y"`
	Series []series `json:"series"`
}

// The kinds of pictures.
const (
	// sharesPicture has the share of all values, from 0 to 1, that are no greater than x, in microseconds, which is logarithmic.
	sharesPicture = "shares"
	// linesPicture has a line through the points of each series. x is logarithmic.
	linesPicture = "lines"
	// barsPicture has a bar for each series, as long as the first of its X. The name is beside it.
	barsPicture = "bars"
)

type series struct {
	Name string    `json:"name"`
	X    []float64 `json:"x"`
	Y    []float64 `json:"y,omitempty"`
	Note string    `json:"note,omitempty"` // at the end of a bar
}

// shareSeries is the distribution of values, in units, by 101 of them.
func shareSeries(name string, values []float64, unit float64) series {
	s := series{Name: name}
	sorted := slices.Sorted(slices.Values(values))
	for percent := range 101 {
		q := float64(percent) / 100
		s.X, s.Y = append(s.X, rounded(quantileOfSorted(sorted, q)/unit)), append(s.Y, q)
	}
	return s
}

// print prints it as text.
func (r *record) print(out io.Writer) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	for _, t := range r.Tables {
		fmt.Fprintln(w)
		for _, row := range append([][]string{t.Columns}, t.Rows...) {
			for _, cell := range row {
				fmt.Fprintf(w, "%s\t", cell)
			}
			fmt.Fprintln(w)
		}
		if err := w.Flush(); err != nil {
			return err
		}
	}
	fmt.Fprintln(out)
	for _, t := range r.Targets {
		fmt.Fprintf(out, "%s: %s (target: %s)\n", t.What, t, t.Target)
	}
	for _, why := range r.LeftOut {
		fmt.Fprintf(out, "left out: %s\n", why)
	}
	return nil
}

// keep writes it to its file in a directory.
func (r *record) keep(dir string) error {
	var text bytes.Buffer
	to := json.NewEncoder(&text)
	to.SetEscapeHTML(false)
	to.SetIndent("", "\t")
	if err := to.Encode(r); err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	return os.WriteFile(recordFile(dir, r.Part), compactNumbers(text.Bytes()), 0o644)
}

// kept reads the record of a part. There need not be one.
func kept(dir, part string) (*record, error) {
	text, err := os.ReadFile(recordFile(dir, part))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	r := &record{}
	if err := json.Unmarshal(text, r); err != nil {
		return nil, fmt.Errorf("%s: %w", recordFile(dir, part), err)
	}
	return r, nil
}

func recordFile(dir, part string) string { return filepath.Join(dir, part+".json") }
