package config

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/rs/zerolog"

	"github.com/sockwatch/sockwatch/ebpf"
	"github.com/sockwatch/sockwatch/reap"
)

func TestLoad(t *testing.T) {
	got, err := load(t, `
dry_run = true
log_level = "debug"
metrics = {listen = "[::1]:9437"}

[[rule]]
path = ["/run/**/*.sock", "/tmp/{a,b}?"]
uid = [0, "root", 4294967294]
comm = ["redis*"]
cgroup = ["/system.slice/**"]
action = "report"

[[rule]]
action = "ignore"

[[bindspace]]
path = "/run/myapp"

[[bindspace]]
path = "/run/other"
sweep = false
convention = ["{name}@{pid}.sock"]
`)
	if err != nil {
		t.Fatal(err)
	}
	convention, err := reap.ParseConvention("{name}@{pid}.sock")
	if err != nil {
		t.Fatal(err)
	}
	want := Config{
		File:     got.File,
		DryRun:   true,
		LogLevel: zerolog.DebugLevel,
		Metrics:  Metrics{"tcp", "[::1]:9437"},
		Rules: Rules{
			{
				Path:   []string{"/run/**/*.sock", "/tmp/{a,b}?"},
				UID:    []uint32{0, 0, 4294967294},
				Comm:   []string{"redis*"},
				Cgroup: []string{"/system.slice/**"},
				Action: Report,
			},
			{Action: Ignore},
		},
		Bindspaces: []Bindspace{
			{Path: "/run/myapp", Sweep: true},
			{Path: "/run/other", Conventions: []reap.Convention{convention}},
		},
	}
	same := cmp.Comparer(func(a, b reap.Convention) bool { return a == b })
	if diff := cmp.Diff(want, got, same); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestLoadWithoutFile(t *testing.T) {
	absent := filepath.Join(t.TempDir(), "absent.toml")
	got, err := Load(absent, false)
	if diff := cmp.Diff(Default(), got); err != nil || diff != "" {
		t.Errorf("a file that nobody named: %v, (-want +got):\n%s", err, diff)
	}
	if _, err := Load(absent, true); !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), absent) {
		t.Errorf("a file that was named: %v", err)
	}
	if _, err := Load(t.TempDir(), false); err == nil {
		t.Error("a directory was read")
	}
	// A file with nothing in it is one without a file.
	got, err = load(t, "# nothing\n")
	got.File = ""
	if diff := cmp.Diff(Default(), got); err != nil || diff != "" {
		t.Errorf("an empty file: %v, (-want +got):\n%s", err, diff)
	}
	if _, err := load(t, strings.Repeat("#", maxSize+1)); err == nil || !strings.Contains(err.Error(), "longer than") {
		t.Errorf("a long file: %v", err)
	}
}

func TestMetrics(t *testing.T) {
	for listen, want := range map[string]Metrics{
		"":                            {},
		"unix:/run/sockwatch/metrics": {"unix", "/run/sockwatch/metrics"},
		"127.0.0.1:9437":              {"tcp", "127.0.0.1:9437"},
		":9437":                       {"tcp", ":9437"},
		"[fe80::1%eth0]:0":            {"tcp", "[fe80::1%eth0]:0"},
	} {
		if c, err := load(t, `metrics.listen = "`+listen+`"`); err != nil || c.Metrics != want {
			t.Errorf("%q: %+v, %v", listen, c.Metrics, err)
		}
	}
}

func TestTrace(t *testing.T) {
	for hooks, want := range map[string]Trace{
		"":           {},
		"off":        {},
		"auto":       {On: true, Hooks: ebpf.HooksAuto},
		"fexit":      {On: true, Hooks: ebpf.HooksFexit},
		"tracepoint": {On: true, Hooks: ebpf.HooksTracepoint},
		"sys_exit":   {On: true, Hooks: ebpf.HooksSysExit},
	} {
		if c, err := load(t, "[trace]\nhooks = \""+hooks+"\""); err != nil || c.Trace != want {
			t.Errorf("%q: %+v, %v", hooks, c.Trace, err)
		}
	}
	if c, err := load(t, "[trace]\n"); err != nil || c.Trace != (Trace{}) {
		t.Errorf("without hooks: %+v, %v", c.Trace, err)
	}
}

// TestProblems: each line of a file that is wrong ends in "#!" and what is to be said about it, which begins with the column.
func TestProblems(t *testing.T) {
	files, err := filepath.Glob("testdata/*.toml")
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		type line struct {
			Number int
			Says   string
		}
		var want, got []line
		for i, s := range strings.Split(string(text), "\n") {
			if _, says, ok := strings.Cut(s, "#! "); ok {
				for one := range strings.SplitSeq(says, " #! ") {
					want = append(want, line{i + 1, one})
				}
			}
		}
		_, err = Load(file, true)
		var wrong *Error
		if !errors.As(err, &wrong) {
			t.Errorf("%s: %v", file, err)
			continue
		}
		for i, s := range strings.Split(err.Error(), "\n") {
			says, ok := strings.CutPrefix(s, file+":")
			if _, says, _ = strings.Cut(says, ":"); !ok {
				t.Errorf("%q does not begin with %q", s, file+":")
			}
			got = append(got, line{wrong.Problems[i].Line, says})
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", file, diff)
		}
	}
}

// TestSyntax: what is no TOML.
func TestSyntax(t *testing.T) {
	for text, want := range map[string]string{
		"a = ":                           ":1:4: expected value, not end of input",
		"dry_run = true\ndry_run = true": ":2:1: dry_run: key dry_run is already defined",
		"[metrics]\n[metrics]":           ":2:2: metrics: table metrics already exists",
		"\n[[rule]\n":                    ":2:7: ",
		"# \xff":                         ":1:3: ",
		"log_level = \"\xff\"":           ":1:14: invalid UTF-8 character in basic string",
		"dry_run = true\nx\n":            ":2:",
		"[[rule]]\naction = 99999999999999999999": ":2:10: rule.action: it must be \"reap\", \"report\" or \"ignore\", and not a number",
		"[[rule]]\nuid = [99999999999999999999]":  ":2:8: rule.uid: decimal number is too large",
	} {
		if _, err := load(t, text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v; want %q", text, err, want)
		}
	}
}

// TestDocument: the complete example of the documentation is right, and says what every key is by default or has it in use.
func TestDocument(t *testing.T) {
	text, err := os.ReadFile("../../docs/configuration.md")
	if err != nil {
		t.Fatal(err)
	}
	examples := regexp.MustCompile("(?ms)^```toml\n(.*?)^```$").FindAllStringSubmatch(string(text), -1)
	if len(examples) < 2 {
		t.Fatalf("%d examples", len(examples))
	}
	longest := ""
	for _, example := range examples {
		// Names of users that are not on every machine.
		toml := strings.ReplaceAll(example[1], `"www-data"`, `"root"`)
		if _, err := load(t, toml); err != nil {
			t.Errorf("%v in\n%s", err, toml)
		}
		if len(toml) > len(longest) {
			longest = toml
		}
	}
	for key := range schema {
		last := key[strings.LastIndexByte(key, '.')+1:]
		if !regexp.MustCompile(`(?m)^(` + last + ` = |\[+` + last + `\]+$)`).MatchString(longest) {
			t.Errorf("the complete example has no %s", key)
		}
		if !strings.Contains(string(text), "`"+last+"`") && !strings.Contains(string(text), "["+last+"]") {
			t.Errorf("the document does not name %s", key)
		}
	}
}

func TestDefaultPath(t *testing.T) {
	got, err := DefaultPath()
	if os.Geteuid() == 0 {
		if got != "/etc/sockwatch/sockwatch.toml" || err != nil {
			t.Errorf("of root: %q, %v", got, err)
		}
		return
	}
	t.Setenv("HOME", "/home/me")
	for dir, want := range map[string]string{
		"":         "/home/me/.config/sockwatch/sockwatch.toml",
		"relative": "/home/me/.config/sockwatch/sockwatch.toml",
		"/x":       "/x/sockwatch/sockwatch.toml",
	} {
		t.Setenv("XDG_CONFIG_HOME", dir)
		if got, err := DefaultPath(); got != want || err != nil {
			t.Errorf("XDG_CONFIG_HOME=%s: %q, %v; want %q", dir, got, err, want)
		}
	}
	t.Setenv("HOME", "")
	t.Setenv("XDG_CONFIG_HOME", "")
	if got, err := DefaultPath(); err == nil {
		t.Errorf("without HOME: %q", got)
	}
}

func FuzzParse(f *testing.F) {
	files, _ := filepath.Glob("testdata/*.toml")
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(string(text))
	}
	for _, text := range []string{
		"a = ", "[[rule]]\naction='reap'", "[[rule]]\nuid=['root', 0]", "rule=[{action='ignore'}, {path=[]}]", "''=1", "\"a\\nb\".\"c\" = 1", "\"a.b\"=1", "[a]\n[a.b]",
		"[[bindspace]]\npath='/x'\nconvention=['{pid}']",
	} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		c, problems := parse([]byte(text))
		lines := strings.Split(text, "\n")
		for _, p := range problems {
			if p.Msg == "" || p.Line < 1 || p.Line > len(lines) || p.Column < 1 || p.Column > len(lines[p.Line-1])+1 {
				t.Errorf("%+v is nowhere", p)
			}
			if strings.Contains(p.String(), "\n") {
				t.Errorf("%+v is more than a line", p)
			}
		}
		if len(problems) > 0 {
			return
		}
		for _, r := range c.Rules {
			if r.Action == "" {
				t.Errorf("%+v has no action", r)
			}
			r.Match(Candidate{Path: "/run/x", Comm: "x", Cgroup: "/"})
		}
		for _, b := range c.Bindspaces {
			if !filepath.IsAbs(b.Path) {
				t.Errorf("%+v is not absolute", b)
			}
		}
	})
}

func load(t *testing.T, text string) (Config, error) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "sockwatch.toml")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return Load(file, true)
}
