package main

import (
	"image/color"
	"math"
	"slices"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/text"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
)

// shares draws, for each series, which share of its values is no greater than x. X is in microseconds. The legend is beside it, in the
// order of the medians.
func shares(p picture) (func(draw.Canvas), vg.Length, error) {
	pl := newPlot(p)
	pl.X.Scale, pl.X.Tick.Marker = plot.LogScale{}, decades(micros)
	pl.Y.Min, pl.Y.Max = 0, 1
	pl.Y.Tick.Marker = plot.ConstantTicks{
		{Value: 0, Label: "0 %"}, {Value: 0.25, Label: "25 %"}, {Value: 0.5, Label: "50 %"}, {Value: 0.75, Label: "75 %"}, {Value: 1, Label: "100 %"},
	}
	pl.Add(gridLines())
	legend, style := newLegend(), styles(p.Series)
	for _, i := range byMedian(p.Series) {
		line, err := plotter.NewLine(points(p.Series[i]))
		if err != nil {
			return nil, 0, err
		}
		line.LineStyle = style[i]
		line.StepStyle = plotter.PostStep
		pl.Add(line)
		legend.Add(p.Series[i].Name, line)
	}
	pl.X.Min, pl.X.Max = pl.X.Min*0.9, pl.X.Max*1.1
	if decade := math.Pow(10, math.Floor(math.Log10(pl.X.Min))); pl.X.Min < 4*decade {
		pl.X.Min = decade // which has a name
	}
	return func(c draw.Canvas) {
		fill(c)
		left := draw.Crop(within(c), 0, -legendWide-2*margin, 0, 0)
		drawPlot(pl, p.X, left)
		right := draw.Crop(within(c), left.Size().X+2*margin, 0, 0, -3*margin)
		legend.Draw(right)
	}, tall, nil
}

// byMedian has the indexes of series, the one with the smallest median first.
func byMedian(all []series) []int {
	order := make([]int, len(all))
	for i := range order {
		order[i] = i
	}
	median := func(i int) float64 { return all[i].X[len(all[i].X)/2] }
	slices.SortStableFunc(order, func(i, j int) int {
		switch {
		case median(i) < median(j):
			return -1
		case median(i) > median(j):
			return 1
		}
		return 0
	})
	return order
}

// lines draws a line with its points for each series. X is logarithmic, with a tick at each point of the first, and Y begins at 0.
func lines(p picture) (func(draw.Canvas), vg.Length, error) {
	pl := newPlot(p)
	var ticks plot.ConstantTicks
	for _, x := range p.Series[0].X {
		ticks = append(ticks, plot.Tick{Value: x, Label: number(x)})
	}
	pl.X.Scale, pl.X.Tick.Marker = plot.LogScale{}, ticks
	pl.Add(gridLines())
	pl.Legend = newLegend()
	pl.Legend.XOffs, pl.Legend.YOffs = margin, -margin/2
	style := styles(p.Series)
	var most float64
	for i, s := range p.Series {
		line, dots, err := plotter.NewLinePoints(points(s))
		if err != nil {
			return nil, 0, err
		}
		line.LineStyle = style[i]
		dots.GlyphStyle = draw.GlyphStyle{Color: line.Color, Radius: 3.5, Shape: draw.CircleGlyph{}}
		pl.Add(line, dots)
		pl.Legend.Add(s.Name, line, dots)
		most = max(most, slices.Max(s.Y))
	}
	pl.Y.Min, pl.Y.Max = 0, most*1.3 // with room for the legend
	return func(c draw.Canvas) {
		fill(c)
		drawPlot(pl, p.X, within(c))
	}, tall, nil
}

// bars draws a bar for each series, the first one above, with its number and its note at its end.
func bars(p picture) (func(draw.Canvas), vg.Length, error) {
	pl := newPlot(p)
	var names []string
	var ends plotter.XYLabels
	for i := range p.Series {
		s := p.Series[len(p.Series)-1-i] // the first is above
		bar, err := plotter.NewBarChart(plotter.Values{s.X[0]}, 18)
		if err != nil {
			return nil, 0, err
		}
		bar.Horizontal, bar.XMin = true, float64(i)
		bar.Color, bar.LineStyle.Width = barColour(s), 0
		pl.Add(bar)
		names = append(names, s.Name)
		ends.XYs = append(ends.XYs, plotter.XY{X: s.X[0], Y: float64(i)})
		end := number(rounded(s.X[0]))
		if s.Note != "" {
			end += ", " + s.Note
		}
		ends.Labels = append(ends.Labels, end)
	}
	labels, err := plotter.NewLabels(ends)
	if err != nil {
		return nil, 0, err
	}
	labels.Offset = vg.Point{X: 5, Y: 1.5}
	for i := range labels.TextStyle {
		labels.TextStyle[i] = pl.X.Tick.Label
		labels.TextStyle[i].XAlign, labels.TextStyle[i].YAlign = text.XLeft, text.YCenter
	}
	pl.Add(labels)
	pl.NominalY(names...)
	pl.Y.Width, pl.Y.Tick.Width = 0, 0
	pl.X.Min = 0
	pl.X.Max *= 1.1
	pl.HideX() // the numbers are there
	return func(c draw.Canvas) {
		fill(c)
		drawPlot(pl, p.X, within(c))
	}, vg.Length(len(p.Series))*30 + 110, nil
}

// barColour has sockwatch stand out, and what a note is about.
func barColour(s series) color.Color {
	switch {
	case s.Note != "":
		return others[0]
	case isFloor(s):
		return ink
	case isOurs(s):
		return ours[0]
	}
	return rgb(0xb0b0b0)
}

// rounded has three digits.
func rounded(x float64) float64 {
	if x <= 0 {
		return 0
	}
	unit := math.Pow(10, math.Floor(math.Log10(x))-2)
	if unit < 1 {
		return math.Round(x/unit) / math.Round(1/unit)
	}
	return math.Round(x/unit) * unit
}

func points(s series) plotter.XYs {
	all := make(plotter.XYs, len(s.X))
	for i := range all {
		all[i] = plotter.XY{X: s.X[i], Y: s.Y[i]}
	}
	return all
}

func gridLines() *plotter.Grid {
	g := plotter.NewGrid()
	g.Horizontal = draw.LineStyle{Color: grid, Width: hair}
	g.Vertical = draw.LineStyle{Color: grid, Width: hair}
	return g
}

func newLegend() plot.Legend {
	l := plot.NewLegend()
	l.Top = true
	l.Left = true
	l.Padding = 4
	l.ThumbnailWidth = 26
	l.TextStyle.Font.Size = textSize
	l.TextStyle.Color = ink
	return l
}

// fill is the background.
func fill(c draw.Canvas) {
	c.SetColor(color.White)
	c.Fill(c.Path())
}
