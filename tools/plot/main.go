// Plot draws the pictures of docs/benchmarks.md from what bench has kept.
//
//	plot RESULTS PICTURES
//
// RESULTS is a directory of JSON files, each with a list of pictures (type record in bench/record.go); for each picture NAME it
// writes PICTURES/NAME.svg. They have a white background, to be read on light and on dark pages, and no fonts in them.
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/font"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgsvg"
)

// picture is as bench keeps it: see there.
type picture struct {
	Name   string   `json:"name"`
	Kind   string   `json:"kind"`
	Title  string   `json:"title"`
	X      string   `json:"x"`
	Y      string   `json:"y"`
	Series []series `json:"series"`
}

type series struct {
	Name string    `json:"name"`
	X    []float64 `json:"x"`
	Y    []float64 `json:"y"`
	Note string    `json:"note"`
}

func main() {
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "usage: plot RESULTS PICTURES")
		os.Exit(2)
	}
	if err := run(os.Args[1], os.Args[2]); err != nil {
		fmt.Fprintln(os.Stderr, "plot:", err)
		os.Exit(1)
	}
}

func run(results, pictures string) error {
	plot.DefaultFont = font.Font{Typeface: "Liberation", Variant: "Sans"}
	if err := os.MkdirAll(pictures, 0o755); err != nil {
		return err
	}
	files, err := filepath.Glob(filepath.Join(results, "*.json"))
	if err != nil {
		return err
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		var kept struct {
			Pictures []picture `json:"pictures"`
		}
		if err := json.Unmarshal(text, &kept); err != nil {
			return fmt.Errorf("%s: %w", file, err)
		}
		for _, p := range kept.Pictures {
			if err := p.write(filepath.Join(pictures, p.Name+".svg")); err != nil {
				return fmt.Errorf("%s, picture %s: %w", file, p.Name, err)
			}
		}
	}
	return nil
}

// write draws it into a file.
func (p picture) write(path string) error {
	if len(p.Series) == 0 {
		return errors.New("nothing to be drawn")
	}
	drawings := map[string]func(picture) (func(draw.Canvas), vg.Length, error){"shares": shares, "lines": lines, "bars": bars}
	drawing, known := drawings[p.Kind]
	if !known {
		return fmt.Errorf("unknown kind %q", p.Kind)
	}
	drawOn, height, err := drawing(p)
	if err != nil {
		return err
	}
	canvas := vgsvg.New(width, height)
	drawOn(draw.New(canvas))
	var svg strings.Builder
	if _, err := canvas.WriteTo(&svg); err != nil {
		return err
	}
	return os.WriteFile(path, []byte(anyFont.Replace(svg.String())), 0o644)
}

// anyFont names fonts as wide as the one that was measured with, for who does not have it.
var anyFont = strings.NewReplacer("font-family:Liberation Sans", "font-family:'Liberation Sans',Arial,Helvetica,sans-serif")
