package reap

import (
	"encoding/json"
	"errors"
	"math"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

func TestParseConventionErrors(t *testing.T) {
	for _, tt := range []struct {
		pattern string
		offset  int
		want    string
	}{
		{"", 0, "at its end: neither {name} nor {pid}"},
		{"agent.sock", 10, "neither {name} nor {pid}"},
		{"{{name}}", 8, "neither {name} nor {pid}"},
		{"{name}@{pd}.sock", 7, `at byte 7, "{pd}.sock": unknown placeholder`},
		{"{Name}", 0, "unknown placeholder"},
		{"{}", 0, "unknown placeholder"},
		{"{ pid }", 0, "unknown placeholder"},
		{"{name}@{pid", 7, "{ without }"},
		{"{pid}{", 5, "{ without }"},
		{"{pid}}", 5, "} without {"},
		{"name}", 4, "} without {"},
		{"{name}{name}", 6, "{name} stands twice"},
		{"{pid}-{name}-{pid}", 13, "{pid} stands twice"},
		{"{pid}-{name}-{name}", 13, "{name} stands twice"},
		{"run/{pid}", 3, `cannot hold "/"`},
		{"{pid}\x00", 5, "NUL"},
		{strings.Repeat("x", 255) + "{pid}", 260, "longer than a file name"},
	} {
		c, err := ParseConvention(tt.pattern)
		var syntax *SyntaxError
		if !errors.As(err, &syntax) {
			t.Errorf("ParseConvention(%q) = %v, %v; want a *SyntaxError", tt.pattern, c, err)
			continue
		}
		if syntax.Pattern != tt.pattern || syntax.Offset != tt.offset || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("ParseConvention(%q): offset %d, %v; want offset %d, %q", tt.pattern, syntax.Offset, err, tt.offset, tt.want)
		}
		if strings.ContainsAny(err.Error(), "\n\x00") {
			t.Errorf("ParseConvention(%q): more than a line: %q", tt.pattern, err)
		}
	}
}

func TestConventionBothWays(t *testing.T) {
	for _, tt := range []struct {
		pattern string
		name    string
		pid     int
		base    string
	}{
		{"{name}@{pid}.sock", "registry", 1616, "registry@1616.sock"},
		{"{name}@{pid}.sock", "a@b@1", 7, "a@b@1@7.sock"},
		{"{name}@{pid}.sock", "a.sock", 7, "a.sock@7.sock"},
		{"{pid}-{name}", "worker-2", 31, "31-worker-2"},
		{"{pid}-{name}", "12", 31, "31-12"},
		{"plugin{pid}", "", 815, "plugin815"},
		{"{pid}", "", math.MaxInt32, "2147483647"},
		{"{name}.sock", "x y\n", 0, "x y\n.sock"},
		{"{name}", "not utf8 \xff", 0, "not utf8 \xff"},
		{"{{{name}}}", "x", 0, "{x}"},
		{"{{pid}}{pid}", "", 4, "{pid}4"},
		{"{name}.{pid}", ".", 4, "..4"},
		{"{name}v1{pid}", "av1", 12, "av1v112"},
		// Only digits between the two: the pid takes as many as it can.
		{"{name}{pid}", "worker", 12, "worker12"},
		{"{name}{pid}", "worker0", 12, "worker012"},
		{"{name}{pid}", "a1", math.MaxInt32, "a12147483647"},
		{"{name}{pid}", "1", 2, "12"},
		{"{pid}{name}", "th", 12, "12th"},
		{"{name}1{pid}", "a", 112, "a1112"},
	} {
		c := mustParseConvention(t, tt.pattern)
		base, err := c.Build(tt.name, tt.pid)
		if err != nil || base != tt.base {
			t.Errorf("%s: Build(%q, %d) = %q, %v; want %q", c, tt.name, tt.pid, base, err, tt.base)
		}
		if name, pid, ok := c.Parse(tt.base); !ok || name != tt.name || pid != tt.pid {
			t.Errorf("%s: Parse(%q) = %q, %d, %v; want %q, %d", c, tt.base, name, pid, ok, tt.name, tt.pid)
		}
	}
}

func TestConventionParseRefuses(t *testing.T) {
	for pattern, bases := range map[string][]string{
		"{name}@{pid}.sock": {
			"", "registry", "registry@.sock", "@1616.sock", "registry@1616", "registry@1616.sock.bak",
			"registry@0.sock", "registry@01616.sock", "registry@+16.sock", "registry@-16.sock", "registry@16 .sock",
			"registry@2147483648.sock", "registry@12147483647.sock", "registry@१६.sock", "a/b@16.sock", "a\x00@16.sock",
			strings.Repeat("x", 249) + "@1.sock",
		},
		"{pid}":        {"", "0", "x", "12x", "1_000", "0x10"},
		"{name}":       {"", ".", "..", "a/b"},
		"{name}{pid}":  {"12x", "7", "x0"},
		".{name}":      {".", ".."},
		"{name}.{pid}": {".4", "a.b"},
	} {
		c := mustParseConvention(t, pattern)
		for _, base := range bases {
			if name, pid, ok := c.Parse(base); ok {
				t.Errorf("%s: Parse(%q) = %q, %d; want no match", c, base, name, pid)
			}
		}
	}
}

func TestConventionBuildRefuses(t *testing.T) {
	for _, tt := range []struct {
		pattern string
		name    string
		pid     int
		want    string
	}{
		{"{name}@{pid}", "", 1, "empty"},
		{"{name}@{pid}", "a/b", 1, `cannot hold "/"`},
		{"{name}@{pid}", "a\x00", 1, "NUL"},
		{"{name}@{pid}", "a", 0, "not a pid"},
		{"{name}@{pid}", "a", -1, "not a pid"},
		{"{name}@{pid}", "a", math.MaxInt32 + 1, "not a pid"},
		{"{name}@{pid}", strings.Repeat("x", 250), 123456, "257 bytes"},
		{"{name}", ".", 0, "directory"},
		{".{name}", ".", 0, "directory"},
	} {
		base, err := mustParseConvention(t, tt.pattern).Build(tt.name, tt.pid)
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: Build(%q, %d) = %q, %v; want an error with %q", tt.pattern, tt.name, tt.pid, base, err, tt.want)
		}
	}
}

func TestZeroConvention(t *testing.T) {
	var c Convention
	if base, err := c.Build("a", 1); err == nil {
		t.Errorf("Build = %q, want an error", base)
	}
	if name, pid, ok := c.Parse("a@1.sock"); ok {
		t.Errorf("Parse = %q, %d, want no match", name, pid)
	}
	if c != (Convention{}) || c.String() != "" {
		t.Errorf("zero Convention is %q", c)
	}
}

func TestConventionText(t *testing.T) {
	type config struct{ Conventions []Convention }
	want := config{[]Convention{mustParseConvention(t, "{name}@{pid}.sock"), mustParseConvention(t, "{{x}}{pid}")}}
	text, err := json.Marshal(want)
	if err != nil {
		t.Fatal(err)
	}
	var got config
	if err := json.Unmarshal(text, &got); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got, cmp.Comparer(func(a, b Convention) bool { return a == b })); diff != "" {
		t.Errorf("through %s (-want +got):\n%s", text, diff)
	}
	before := got.Conventions[0]
	var syntax *SyntaxError
	if err := got.Conventions[0].UnmarshalText([]byte("{pid")); !errors.As(err, &syntax) || got.Conventions[0] != before {
		t.Errorf("UnmarshalText of a malformed pattern: %v, leaves %q", err, got.Conventions[0])
	}
}

func TestConventionRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		literal := rapid.StringMatching(`[a1@.{} \n]{0,4}`)
		holes := rapid.SampledFrom([][]string{
			{"{name}"}, {"{pid}"}, {"{name}", "{pid}"}, {"{pid}", "{name}"},
		}).Draw(t, "holes")
		escape := strings.NewReplacer("{", "{{", "}", "}}")
		pattern := escape.Replace(literal.Draw(t, "before"))
		between := ""
		for i, h := range holes {
			lit := literal.Draw(t, "literal")
			if i == 0 {
				between = lit
			}
			pattern += h + escape.Replace(lit)
		}
		c, err := ParseConvention(pattern)
		if err != nil {
			t.Fatal(err)
		}
		if c.String() != pattern {
			t.Fatalf("String = %q", c)
		}
		name := rapid.StringMatching(`[a1@.\xff ]{1,6}`).Draw(t, "name")
		pid := rapid.IntRange(1, math.MaxInt32).Draw(t, "pid")
		base, err := c.Build(name, pid)
		if err != nil {
			if base == "" && strings.Trim(strings.Replace(pattern, "{name}", name, 1), ".") == "" {
				return // "." or ".."
			}
			t.Fatal(err)
		}
		gotName, gotPID, ok := c.Parse(base)
		if !ok {
			t.Fatalf("%s: Parse(%q) finds nothing", c, base)
		}
		if again, err := c.Build(gotName, gotPID); err != nil || again != base {
			t.Fatalf("%s: %q read as %q, %d, which builds %q, %v", c, base, gotName, gotPID, again, err)
		}
		if len(holes) == 2 && strings.Trim(between, "0123456789") == "" {
			if gotPID < pid {
				t.Fatalf("%s: %q read as %q, %d: %d is longer", c, base, gotName, gotPID, pid)
			}
			return
		}
		wantName, wantPID := name, pid
		if !strings.Contains(strings.Join(holes, ""), "{name}") {
			wantName = ""
		}
		if !strings.Contains(strings.Join(holes, ""), "{pid}") {
			wantPID = 0
		}
		if gotName != wantName || gotPID != wantPID {
			t.Fatalf("%s: %q read as %q, %d; want %q, %d", c, base, gotName, gotPID, wantName, wantPID)
		}
	})
}

func FuzzParseConvention(f *testing.F) {
	for _, pattern := range []string{
		"{name}@{pid}.sock", "{pid}{name}", "{{{name}}}", "{name", "a}", "{pid}{pid}", "a/b", "", "{{}}",
	} {
		f.Add(pattern, "a", 1)
	}
	f.Fuzz(func(t *testing.T, pattern, name string, pid int) {
		c, err := ParseConvention(pattern)
		if err != nil {
			var syntax *SyntaxError
			if !errors.As(err, &syntax) || syntax.Pattern != pattern || syntax.Offset < 0 || syntax.Offset > len(pattern) {
				t.Fatalf("%#v", err)
			}
			if c != (Convention{}) {
				t.Fatalf("%v beside an error", c)
			}
			return
		}
		again, err := ParseConvention(c.String())
		if err != nil || again != c {
			t.Fatalf("%q does not read back: %v", pattern, err)
		}
		base, err := c.Build(name, pid)
		if err != nil {
			return
		}
		if _, _, ok := c.Parse(base); !ok {
			t.Fatalf("%s: Build(%q, %d) = %q, which Parse does not know", c, name, pid, base)
		}
	})
}

func FuzzConventionParse(f *testing.F) {
	f.Add("{name}@{pid}.sock", "registry@1616.sock")
	f.Add("{name}{pid}", "worker0012")
	f.Add("{pid}1{name}", "111111")
	f.Add("{pid}", "0")
	f.Add(".{name}", "..")
	f.Add("{name}", "\x00")
	f.Fuzz(func(t *testing.T, pattern, base string) {
		c, err := ParseConvention(pattern)
		if err != nil {
			return
		}
		name, pid, ok := c.Parse(base)
		if !ok {
			if name != "" || pid != 0 {
				t.Fatalf("%q, %d beside no match", name, pid)
			}
			return
		}
		if again, err := c.Build(name, pid); err != nil || again != base {
			t.Fatalf("%s: %q read as %q, %d, which builds %q, %v", c, base, name, pid, again, err)
		}
	})
}

func mustParseConvention(t testing.TB, pattern string) Convention {
	t.Helper()
	c, err := ParseConvention(pattern)
	if err != nil {
		t.Fatal(err)
	}
	return c
}
