package main

import (
	"image/color"
	"math"
	"strconv"
	"strings"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/text"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
)

const (
	width      = 10 * vg.Inch
	tall       = 5.2 * vg.Inch
	textSize   = 13
	titleSize  = 16
	margin     = 12
	thick      = 2.4
	thin       = 1.7
	hair       = 0.6
	legendWide = 215
)

var (
	ink  = color.RGBA{R: 0x22, G: 0x22, B: 0x22, A: 0xff}
	grid = color.RGBA{R: 0xdd, G: 0xdd, B: 0xdd, A: 0xff}
)

// Of the colours those of Okabe and Ito are first, which the colour-blind can tell apart. Sockwatch's are the cool ones.
var (
	black  = color.RGBA{A: 0xff}
	others = []color.RGBA{rgb(0xd55e00), rgb(0xe69f00), rgb(0xcc79a7), rgb(0x8c564b), rgb(0x888888), rgb(0xb0a030)}
	ours   = []color.RGBA{rgb(0x0072b2), rgb(0x009e73), rgb(0x56b4e9), rgb(0x6a3d9a)}
)

func rgb(hex uint32) color.RGBA {
	return color.RGBA{R: uint8(hex >> 16), G: uint8(hex >> 8), B: uint8(hex), A: 0xff}
}

// isOurs says whether a series is of sockwatch.
func isOurs(s series) bool { return strings.HasPrefix(s.Name, "sockwatch") }

// isFloor says whether a series is what all are compared with.
func isFloor(s series) bool { return strings.Contains(s.Name, "floor") }

// styles are those of the lines: sockwatch's are thick, and the floor's is black.
func styles(all []series) []draw.LineStyle {
	styles := make([]draw.LineStyle, len(all))
	var our, other int
	for i, s := range all {
		switch {
		case isFloor(s):
			styles[i] = draw.LineStyle{Color: black, Width: thick}
		case isOurs(s):
			styles[i] = draw.LineStyle{Color: ours[our%len(ours)], Width: thick}
			our++
		default:
			styles[i] = draw.LineStyle{Color: others[other%len(others)], Width: thin}
			other++
		}
	}
	return styles
}

// newPlot is an empty plot with its title. The name of the X axis is for drawPlot.
func newPlot(p picture) *plot.Plot {
	pl := plot.New()
	pl.Title.Text = p.Title
	pl.Title.TextStyle.Font.Size = titleSize
	pl.Title.TextStyle.Color = ink
	pl.Title.Padding = 10
	for _, axis := range []*plot.Axis{&pl.X, &pl.Y} {
		axis.Label.TextStyle.Font.Size = textSize
		axis.Label.TextStyle.Color = ink
		axis.Label.Padding = 4
		axis.Tick.Label.Font.Size = textSize
		axis.Tick.Label.Color = ink
		axis.Padding = 0
	}
	pl.Y.Label.Text = p.Y
	return pl
}

// decades are ticks at powers of ten, with names, and nameless ones between them.
func decades(name func(float64) string) plot.Ticker {
	return plot.TickerFunc(func(low, high float64) (ticks []plot.Tick) {
		for power := math.Pow(10, math.Floor(math.Log10(low))); power <= high*1.0001; power *= 10 {
			for digit := 1.0; digit < 10; digit++ {
				if at := digit * power; at >= low*0.9999 && at <= high*1.0001 {
					tick := plot.Tick{Value: at}
					if digit == 1 {
						tick.Label = name(power)
					}
					ticks = append(ticks, tick)
				}
			}
		}
		return ticks
	})
}

// micros names a time that is a power of ten of microseconds.
func micros(us float64) string {
	for _, unit := range []struct {
		name string
		us   float64
	}{{" s", 1e6}, {" ms", 1e3}, {" µs", 1}} {
		if us >= unit.us*0.999 {
			return number(us/unit.us) + unit.name
		}
	}
	return number(us*1e3) + " ns"
}

// number has a comma before each three digits.
func number(x float64) string {
	digits := strconv.FormatFloat(x, 'f', -1, 64)
	if x != math.Trunc(x) {
		return strconv.FormatFloat(x, 'g', 3, 64)
	}
	for i := len(digits) - 3; i > 0; i -= 3 {
		digits = digits[:i] + "," + digits[i:]
	}
	return digits
}

// drawPlot draws a plot and below it the name of its X axis. Package plot would leave room for that to the right of a logarithmic axis.
func drawPlot(pl *plot.Plot, name string, c draw.Canvas) {
	style := pl.X.Label.TextStyle
	style.XAlign, style.YAlign = text.XCenter, text.YBottom
	above := draw.Crop(c, 0, 0, style.Height(name)+pl.X.Label.Padding*2, 0)
	pl.Draw(above)
	data := pl.DataCanvas(above)
	c.FillText(style, vg.Point{X: data.Center().X, Y: c.Min.Y}, name)
}

// within leaves a margin.
func within(c draw.Canvas) draw.Canvas { return draw.Crop(c, margin, -margin, margin, -margin) }
