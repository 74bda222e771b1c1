package main

import (
	"strings"
	"unicode/utf8"
)

// block is a run of lines in a description: kept as they are where they are indented, else to be filled.
type block struct {
	lines []string
	kept  bool
}

// paragraphs takes the description of a command apart: paragraphs are divided by empty lines.
func paragraphs(s string) [][]block {
	var all [][]block
	for paragraph := range strings.SplitSeq(strings.Trim(s, "\n"), "\n\n") {
		var blocks []block
		for line := range strings.SplitSeq(strings.Trim(paragraph, "\n"), "\n") {
			kept := strings.HasPrefix(line, " ") || strings.HasPrefix(line, "\t")
			if len(blocks) == 0 || blocks[len(blocks)-1].kept != kept {
				blocks = append(blocks, block{kept: kept})
			}
			last := &blocks[len(blocks)-1]
			last.lines = append(last.lines, line)
		}
		all = append(all, blocks)
	}
	return all
}

// fill breaks text into lines of at most width characters, where its words allow.
func fill(text string, width int) string {
	var b strings.Builder
	column := 0
	for word := range strings.FieldsSeq(text) {
		n := utf8.RuneCountInString(word)
		switch {
		case column == 0:
		case column+1+n > width:
			b.WriteByte('\n')
			column = 0
		default:
			b.WriteByte(' ')
			column++
		}
		b.WriteString(word)
		column += n
	}
	b.WriteByte('\n')
	return b.String()
}
