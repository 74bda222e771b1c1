package main

import (
	"embed"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"text/template"
)

// texts are what the document says around the numbers: head.md and a file for each part, each a template.
//
//go:embed text
var texts embed.FS

// sections are the document's texts, in their order. Those after head are of parts, but for the last.
var sections = []string{"head", "peers", "many", "sweep", "starts", "daemon", "trace", "storm"}

// writeDocument writes benchmarks.md in a directory, of the records that there are.
func writeDocument(results, dir string) error {
	records := map[string]*record{}
	for _, name := range sections {
		r, err := kept(results, name)
		if err != nil {
			return err
		}
		records[name] = r
	}
	text, err := document(records)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "benchmarks.md"), []byte(text), 0o644)
}

// document is the document's text.
func document(records map[string]*record) (string, error) {
	var all strings.Builder
	for _, name := range sections {
		r := records[name]
		t, err := template.New(name+".md").Funcs(template.FuncMap{
			"measured": r.measured,
			"table":    r.table,
			"picture":  r.picture,
			"targets":  func() string { return targets(records) },
		}).ParseFS(texts, "text/"+name+".md")
		if err != nil {
			return "", err
		}
		if err := t.Execute(&all, nil); err != nil {
			return "", err
		}
		all.WriteByte('\n')
	}
	return strings.TrimRight(all.String(), "\n") + "\n", nil
}

const notMeasured = "*Not measured here yet.*"

// measured says when and on what it was, and what was not.
func (r *record) measured() string {
	if r == nil {
		return "" // its tables say so
	}
	var out strings.Builder
	fmt.Fprintf(&out, "Measured on %s by `%s`: %s.", r.Date, r.Command, r.Machine)
	if r.Load[0] != "" {
		fmt.Fprintf(&out, " Load average %s before, %s after.", r.Load[0], r.Load[1])
	}
	if r.Versions != "" {
		fmt.Fprintf(&out, " Packages: %s.", r.Versions)
	}
	for _, why := range r.LeftOut {
		fmt.Fprintf(&out, "\n\nLeft out: %s.", strings.TrimRight(why, ".\n"))
	}
	return out.String()
}

// table is one of the record's, in Markdown.
func (r *record) table(name string) (string, error) {
	if r == nil {
		return notMeasured, nil
	}
	for _, t := range r.Tables {
		if t.Name == name {
			return t.markdown(), nil
		}
	}
	return "", fmt.Errorf("%s has no table %q", r.Part, name)
}

func (t table) markdown() string {
	var out strings.Builder
	line := func(cells []string) {
		out.WriteString("|")
		for _, cell := range cells {
			cell = strings.ReplaceAll(cell, "|", `\|`)
			if value, missed := strings.CutSuffix(cell, " MISSED"); missed {
				cell = "**" + value + "** missed"
			}
			fmt.Fprintf(&out, " %s |", cell)
		}
		out.WriteString("\n")
	}
	line(t.Columns)
	out.WriteString("|" + strings.Repeat(" --- |", len(t.Columns)) + "\n")
	for _, row := range t.Rows {
		line(row)
	}
	return strings.TrimSuffix(out.String(), "\n")
}

// picture shows one that tools/plot draws.
func (r *record) picture(name, title string) string {
	if r == nil {
		return ""
	}
	return fmt.Sprintf("![%s](pictures/%s.svg)", title, name)
}

// targets is a table of all.
func targets(records map[string]*record) string {
	t := table{Columns: []string{"", "measured", "target"}}
	for _, name := range sections {
		if r := records[name]; r != nil {
			for _, each := range r.Targets {
				t.add(each.What, each.String(), each.Target)
			}
		}
	}
	if len(t.Rows) == 0 {
		return notMeasured
	}
	return t.markdown()
}
