package main

import (
	"fmt"
	"strconv"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// escapeName makes a name fit for a terminal: control bytes, what is not UTF-8 and what does not show (blanks but the
// space, marks that turn the direction of writing) as \n, \x1b or \u202e, and a backslash as two, so that different
// names stay different, as ls -b has it.
func escapeName(s string) string {
	return escapeText(strings.ReplaceAll(s, `\`, `\\`))
}

// escapeText is escapeName for sentences, which may hold names quoted by %q already: a backslash stays one.
func escapeText(s string) string {
	if fit(s) {
		return s
	}
	var b strings.Builder
	for len(s) > 0 {
		r, size := utf8.DecodeRuneInString(s)
		switch {
		case r == utf8.RuneError && size == 1:
			fmt.Fprintf(&b, `\x%02x`, s[0])
		case strconv.IsPrint(r):
			b.WriteRune(r)
		default:
			quoted := strconv.QuoteRune(r)
			b.WriteString(quoted[1 : len(quoted)-1])
		}
		s = s[size:]
	}
	return b.String()
}

// escapeJSON makes a line of JSON fit for a terminal. Only strings in it can hold what is not, and there \u means the same: encoding/json
// leaves DEL, the controls from U+0080 to U+009F and the marks of bidirectional text as they are.
func escapeJSON(line string) string {
	text := strings.TrimSuffix(line, "\n")
	if fit(text) {
		return line
	}
	var b strings.Builder
	for _, r := range text {
		if strconv.IsPrint(r) {
			b.WriteRune(r)
			continue
		}
		for _, unit := range utf16.Encode([]rune{r}) {
			fmt.Fprintf(&b, `\u%04x`, unit)
		}
	}
	return b.String() + line[len(text):]
}

func fit(s string) bool {
	return utf8.ValidString(s) && strings.IndexFunc(s, func(r rune) bool { return !strconv.IsPrint(r) }) < 0
}
