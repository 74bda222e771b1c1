package main

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParagraphs(t *testing.T) {
	got := paragraphs("\nOne\ntwo.\n\nThree:\n  a\n  b\nfour\n\n\tcode")
	want := [][]block{
		{{lines: []string{"One", "two."}}},
		{{lines: []string{"Three:"}}, {lines: []string{"  a", "  b"}, kept: true}, {lines: []string{"four"}}},
		{{lines: []string{"\tcode"}, kept: true}},
	}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(block{})); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestFill(t *testing.T) {
	got := fill("aa bb  ccc\nünü averylongword z", 6)
	want := "aa bb\nccc\nünü\naverylongword\nz\n"
	if got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}
