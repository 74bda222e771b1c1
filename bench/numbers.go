package main

import (
	"fmt"
	"math"
	"regexp"
	"slices"
	"strconv"
)

// quantile is the smallest value that a share q of all does not exceed.
func quantile(values []float64, q float64) float64 {
	return quantileOfSorted(slices.Sorted(slices.Values(values)), q)
}

func quantileOfSorted(sorted []float64, q float64) float64 {
	return sorted[min(int(q*float64(len(sorted))), len(sorted)-1)]
}

// beside is what two sides have measured in turn: turn i of the one came right before or right after turn i of the other.
type beside struct{ base, other [][]float64 }

// ratio compares a quantile of all turns together.
func (b beside) ratio(q float64) float64 {
	return quantile(slices.Concat(b.other...), q) / quantile(slices.Concat(b.base...), q)
}

// pairs gives the ratio of the medians of each two turns that were beside each other.
func (b beside) pairs() []float64 {
	ratios := make([]float64, len(b.base))
	for i := range ratios {
		ratios[i] = quantile(b.other[i], 0.5) / quantile(b.base[i], 0.5)
	}
	return ratios
}

// spread is the lowest of some ratios, the middle one and the highest.
func spread(ratios []float64) string {
	return fmt.Sprintf("%s - %s - %s", ratio(quantile(ratios, 0)), ratio(quantile(ratios, 0.5)), ratio(quantile(ratios, 1)))
}

// judge prints a ratio and whether the target is missed.
func judge(ratio, target float64) string {
	if ratio > target {
		return fmt.Sprintf("%.2f MISSED", ratio)
	}
	return fmt.Sprintf("%.2f", ratio)
}

// ratio has three digits.
func ratio(r float64) string { return digits(r) }

// digits is a number with three digits, or all before the point.
func digits(x float64) string {
	switch {
	case math.Abs(x) >= 100:
		return fmt.Sprintf("%.0f", x)
	case math.Abs(x) >= 10:
		return fmt.Sprintf("%.1f", x)
	}
	return fmt.Sprintf("%.2f", x)
}

// duration is a time in nanoseconds, in its unit.
func duration(ns float64) string {
	for _, unit := range []struct {
		name string
		ns   float64
	}{{"s", 1e9}, {"ms", 1e6}, {"µs", 1e3}} {
		if math.Abs(ns) >= unit.ns {
			return digits(ns/unit.ns) + " " + unit.name
		}
	}
	return fmt.Sprintf("%.0f ns", ns)
}

// rounded has four digits: what is kept is read by people, too.
func rounded(x float64) float64 {
	short, _ := strconv.ParseFloat(strconv.FormatFloat(x, 'g', 4, 64), 64)
	return short
}

var betweenNumbers = regexp.MustCompile(`(\[|,)\n\s*([-+.0-9e]+)(\n\s*\])?`)

// compactNumbers puts the numbers of a list in JSON in one line.
func compactNumbers(text []byte) []byte {
	return betweenNumbers.ReplaceAllFunc(text, func(m []byte) []byte {
		return slices.DeleteFunc(m, func(c byte) bool { return c == '\n' || c == '\t' || c == ' ' })
	})
}
