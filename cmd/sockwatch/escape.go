package main

import (
	"fmt"
	"strconv"
	"strings"
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

func fit(s string) bool {
	return utf8.ValidString(s) && strings.IndexFunc(s, func(r rune) bool { return !strconv.IsPrint(r) }) < 0
}
