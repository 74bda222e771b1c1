package main

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
)

// printReport prints what failed and with which words, what was skipped and why, and a line for each kernel and package.
func printReport(w io.Writer, runs []guestRun, verbose bool) {
	for _, r := range runs {
		for _, s := range r.suites {
			if s.failed() && s.ran() {
				printFailure(w, r.kernel.release, s)
			}
		}
	}
	printSkips(w, runs)
	if verbose {
		printSlowest(w, runs)
	}
	fmt.Fprintln(w)
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "KERNEL\tPACKAGE\tPASSED\tFAILED\tSKIPPED\tSECONDS\t")
	for _, r := range runs {
		for _, s := range r.suites {
			fmt.Fprintf(t, "%s\t%s\t", r.kernel.release, s.name)
			switch {
			case s.binary == "":
				fmt.Fprintln(t, "no tests\t\t\t\t")
			case !s.ran():
				fmt.Fprintln(t, "not run\t\t\t\t")
			default:
				fmt.Fprintf(t, "%d\t%d\t%d\t%.0f\t", len(s.of("pass")), len(s.bad()), len(s.of("skip")), s.took.Seconds())
				if s.failed() {
					fmt.Fprintf(t, "FAILED, exit status %q", s.status)
				}
				fmt.Fprintln(t)
			}
		}
	}
	t.Flush()
}

func printFailure(w io.Writer, release string, r result) {
	for _, t := range r.bad() {
		if !t.parent {
			fmt.Fprintf(w, "\n--- %s: %s: %s\n%s", release, r.name, t.name, t.output.String())
		}
	}
	fmt.Fprintf(w, "\n--- %s: %s, exit status %q\n%s", release, r.name, r.status, r.output)
}

// printSkips tells each reason once, with the tests that gave it.
func printSkips(w io.Writer, runs []guestRun) {
	tests := map[string][]string{}
	var reasons []string
	for _, r := range runs {
		for _, s := range r.suites {
			for _, t := range s.of("skip") {
				reason := t.reason()
				if tests[reason] == nil {
					reasons = append(reasons, reason)
				}
				tests[reason] = append(tests[reason], fmt.Sprintf("%s: %s: %s", r.kernel.series, s.name, t.name))
			}
		}
	}
	for _, reason := range reasons {
		fmt.Fprintf(w, "\nskipped, %s:\n  %s\n", reason, strings.Join(tests[reason], "\n  "))
	}
}

func printSlowest(w io.Writer, runs []guestRun) {
	const most = 12
	for _, r := range runs {
		for _, s := range r.suites {
			all := slices.Clone(s.tests)
			slices.SortFunc(all, func(a, b *test) int { return cmp.Compare(b.elapsed, a.elapsed) })
			for _, t := range all[:min(most, len(all))] {
				fmt.Fprintf(w, "%8.1f s  %s  %s  %s\n", t.elapsed, r.kernel.series, s.name, t.name)
			}
		}
	}
}
