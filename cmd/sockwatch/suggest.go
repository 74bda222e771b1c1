package main

import "strings"

// didYouMean ends an error about something unknown with what is written alike, if anything is.
func didYouMean(alike []string) string {
	if len(alike) == 0 {
		return ""
	}
	return "; did you mean " + strings.Join(alike, " or ") + "?"
}

// looksLike tells whether typed may be meant for known: it begins it, or is at most two letters (left out, put in or
// changed) away, one where the word is so short that two would change it altogether.
func looksLike(typed, known string) bool {
	return strings.HasPrefix(known, typed) || distance(typed, known) <= min(2, (len(known)+1)/3)
}

// distance is the Levenshtein distance in bytes.
func distance(a, b string) int {
	row := make([]int, len(b)+1) // of the table, for the bytes of a so far
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			change := diagonal
			if a[i] != b[j] {
				change++
			}
			diagonal = row[j+1]
			row[j+1] = min(change, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
