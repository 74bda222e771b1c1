package main

import (
	"slices"
	"testing"
)

func TestQuantile(t *testing.T) {
	values := []float64{4, 1, 3, 2}
	for _, c := range []struct{ q, want float64 }{{0, 1}, {0.25, 2}, {0.5, 3}, {0.99, 4}, {1, 4}} {
		if got := quantile(values, c.q); got != c.want {
			t.Errorf("quantile %v of %v is %v, not %v", c.q, values, got, c.want)
		}
	}
	if values[0] != 4 {
		t.Error("quantile has sorted its argument")
	}
	if got := quantile([]float64{7}, 0.99); got != 7 {
		t.Errorf("quantile of one value is %v", got)
	}
}

func TestBeside(t *testing.T) {
	b := beside{base: [][]float64{{1, 1, 1}, {2, 2, 2}}, other: [][]float64{{2, 2, 2}, {3, 3, 3}}}
	if got := b.pairs(); !slices.Equal(got, []float64{2, 1.5}) {
		t.Errorf("pairs: %v", got)
	}
	if got := b.ratio(1); got != 1.5 {
		t.Errorf("ratio: %v", got)
	}
	if got := spread(b.pairs()); got != "1.50 - 2.00 - 2.00" {
		t.Errorf("spread: %s", got)
	}
}

func TestShareSeries(t *testing.T) {
	var values []float64
	for i := range 1000 {
		values = append(values, float64(1000*(1000-i)))
	}
	s := shareSeries("name", values, 1e3)
	if len(s.X) != 101 || len(s.Y) != 101 || !slices.IsSorted(s.X) || !slices.IsSorted(s.Y) {
		t.Fatalf("%d and %d points, or not in order", len(s.X), len(s.Y))
	}
	for percent, want := range map[int]float64{0: 1, 50: 501, 100: 1000} {
		if s.X[percent] != want {
			t.Errorf("at %d percent: %v, not %v", percent, s.X[percent], want)
		}
	}
}

func TestShown(t *testing.T) {
	for got, want := range map[string]string{
		duration(950):       "950 ns",
		duration(27_340):    "27.3 µs",
		duration(1_234_000): "1.23 ms",
		duration(2.05e9):    "2.05 s",
		duration(-1500):     "-1.50 µs",
		ratio(1.5):          "1.50",
		ratio(8689.4):       "8689",
		judge(1.5, 1.15):    "1.50 MISSED",
		judge(1.15, 1.15):   "1.15",
		thousands(1):        "1",
		thousands(9000):     "9,000",
		thousands(1234567):  "1,234,567",
	} {
		if got != want {
			t.Errorf("%q, not %q", got, want)
		}
	}
	if got := rounded(0.123456); got != 0.1235 {
		t.Errorf("rounded: %v", got)
	}
}
