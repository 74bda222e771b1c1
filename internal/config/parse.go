package config

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"net"
	"net/netip"
	"os/user"
	"path"
	"strconv"
	"strings"

	"github.com/bmatcuk/doublestar/v4"
	"github.com/pelletier/go-toml/v2"
	"github.com/rs/zerolog"

	"github.com/sockwatch/sockwatch/reap"
)

// document is the file as it is written.
type document struct {
	DryRun     bool             `toml:"dry_run"`
	LogLevel   string           `toml:"log_level"`
	Metrics    metricsTable     `toml:"metrics"`
	Trace      traceTable       `toml:"trace"`
	Rules      []ruleTable      `toml:"rule"`
	Bindspaces []bindspaceTable `toml:"bindspace"`
}

type metricsTable struct {
	Listen string `toml:"listen"`
}

type traceTable struct {
	Hooks string `toml:"hooks"`
}

// ruleTable tells a list that is not there (nil) from an empty one, which no file could fulfil.
type ruleTable struct {
	Path   []string `toml:"path"`
	UID    []any    `toml:"uid"` // int64 or string: the survey has seen to that
	Comm   []string `toml:"comm"`
	Cgroup []string `toml:"cgroup"`
	Action string   `toml:"action"`
}

type bindspaceTable struct {
	Path       string   `toml:"path"`
	Sweep      *bool    `toml:"sweep"`
	Convention []string `toml:"convention"`
}

// parse gives the configuration, of use only without problems.
func parse(data []byte) (Config, problems) {
	s := surveyOf(data)
	doc := document{LogLevel: Default().LogLevel.String()}
	err := toml.NewDecoder(bytes.NewReader(data)).DisallowUnknownFields().Decode(&doc)
	var unknown *toml.StrictMissingError
	if err != nil && !errors.As(err, &unknown) {
		// Nothing was decoded from there on. Types and syntax are told already; what was set twice is not.
		s.decodeError(err)
		s.problems.sort()
		return Config{}, s.problems
	}
	if s.apart {
		s.problems.sort()
		return Config{}, s.problems
	}
	config := checker{s}.config(doc)
	if unknown != nil && len(s.problems) == 0 {
		s.problems.add(place{1, 1}, "", "%v", unknown) // the survey and the decoder disagree: the stricter is right
	}
	s.problems.sort()
	return config, s.problems
}

func (s *survey) decodeError(err error) {
	var decode *toml.DecodeError
	if !errors.As(err, &decode) {
		s.problems.add(place{1, 1}, "", "%v", err)
		return
	}
	line, column := decode.Position()
	if !s.problems.onLine(line) {
		s.problems.add(place{line, column}, strings.Join(decode.Key(), "."), "%s", strings.TrimPrefix(decode.Error(), "toml: "))
	}
}

// checker makes a Config of a document whose types are right.
type checker struct{ *survey }

// bad notes that a value cannot be. at is its key with the numbers of lists, as in survey.places.
func (c checker) bad(at, format string, args ...any) {
	key := at
	for {
		before, after, found := strings.Cut(key, "[")
		if !found {
			break
		}
		_, after, _ = strings.Cut(after, "]")
		key = before + after
	}
	c.problems.add(c.places[at], key, format, args...)
}

func (c checker) config(doc document) Config {
	config := Config{
		DryRun:   doc.DryRun,
		LogLevel: c.logLevel(doc.LogLevel),
		Metrics:  c.metrics(doc.Metrics.Listen),
		Trace:    c.trace(doc.Trace.Hooks),
	}
	for i, r := range doc.Rules {
		config.Rules = append(config.Rules, c.rule(fmt.Sprintf("rule[%d]", i), r))
	}
	places := map[string]place{}
	for i, b := range doc.Bindspaces {
		at := fmt.Sprintf("bindspace[%d]", i)
		config.Bindspaces = append(config.Bindspaces, c.bindspace(at, b))
		if first, twice := places[b.Path]; twice && b.Path != "" {
			c.bad(at+".path", "%q is named in line %d already", b.Path, first.line)
		} else {
			places[b.Path] = c.places[at+".path"]
		}
	}
	return config
}

func (c checker) logLevel(name string) zerolog.Level {
	for _, level := range []zerolog.Level{zerolog.DebugLevel, zerolog.InfoLevel, zerolog.WarnLevel, zerolog.ErrorLevel} {
		if level.String() == name {
			return level
		}
	}
	c.bad("log_level", "it must be %s, and not %q", schema["log_level"].want, name)
	return zerolog.InfoLevel
}

func (c checker) trace(hooks string) Trace {
	if hooks == "" || hooks == "off" {
		return Trace{}
	}
	t := Trace{On: true}
	if err := t.Hooks.UnmarshalText([]byte(hooks)); err != nil {
		c.bad("trace.hooks", "it must be %s, and not %q", schema["trace.hooks"].want, hooks)
	}
	return t
}

// maxSocketPath is what sun_path of unix(7) holds, with the NUL byte at its end.
const maxSocketPath = 107

func (c checker) metrics(listen string) Metrics {
	if listen == "" {
		return Metrics{}
	}
	if p, ok := strings.CutPrefix(listen, "unix:"); ok {
		switch {
		case !isClean(p):
			c.bad("metrics.listen", "%q: after unix: comes an absolute path, such as /run/sockwatch/metrics", listen)
		case len(p) > maxSocketPath:
			c.bad("metrics.listen", "%q: the path of a socket has %d bytes at most", listen, maxSocketPath)
		}
		return Metrics{Network: "unix", Address: p}
	}
	host, port, err := net.SplitHostPort(listen)
	if err == nil && host != "" {
		_, err = netip.ParseAddr(host) // no names: what they mean can change, and hang
	}
	if err == nil {
		_, err = strconv.ParseUint(port, 10, 16)
	}
	if err != nil {
		c.bad("metrics.listen", "%q is not %s", listen, schema["metrics.listen"].want)
	}
	return Metrics{Network: "tcp", Address: listen}
}

func (c checker) rule(at string, r ruleTable) Rule {
	rule := Rule{Path: r.Path, Comm: r.Comm, Cgroup: r.Cgroup, Action: Action(r.Action)}
	switch rule.Action {
	case Reap, Report, Ignore:
	case "":
		c.missing(at, "action")
	default:
		c.bad(at+".action", "it must be %s, and not %q", schema["rule.action"].want, r.Action)
	}
	c.patterns(at+".path", r.Path, checkPathPattern)
	c.patterns(at+".comm", r.Comm, checkCommPattern)
	c.patterns(at+".cgroup", r.Cgroup, checkPathPattern)
	if r.UID != nil && len(r.UID) == 0 {
		c.empty(at + ".uid")
	}
	for i, value := range r.UID {
		uid, err := lookupUID(value)
		if err != nil {
			c.bad(fmt.Sprintf("%s.uid[%d]", at, i), "%v", err)
		}
		rule.UID = append(rule.UID, uid)
	}
	return rule
}

// missing tells of a key that must be, at the head of its table or, where there is none, nowhere better.
func (c checker) missing(at, key string) {
	table, _, _ := strings.Cut(at, "[")
	full := join(table, key)
	// "" is as good as nothing, but it has a place.
	where, there := c.places[join(at, key)]
	if !there {
		where = c.places[at]
	}
	c.problems.add(where, full, "it is missing or empty; it must be %s", schema[full].want)
}

func (c checker) empty(at string) {
	c.bad(at, "nothing matches an empty list; without the key everything does")
}

func (c checker) patterns(at string, patterns []string, check func(string) error) {
	if patterns != nil && len(patterns) == 0 {
		c.empty(at)
	}
	for i, pattern := range patterns {
		if err := checkPattern(pattern, check); err != nil {
			c.bad(fmt.Sprintf("%s[%d]", at, i), "%q: %v", pattern, err)
		}
	}
}

func checkPattern(pattern string, check func(string) error) error {
	switch {
	case pattern == "":
		return errors.New("an empty pattern matches nothing")
	case strings.ContainsRune(pattern, 0):
		return errors.New("no name has a NUL byte")
	case strings.ContainsRune(pattern, '\uFFFD'):
		return errors.New("U+FFFD would match any byte that is not UTF-8; ? says so")
	case !doublestar.ValidatePattern(pattern):
		return errors.New(`a [, { or \ in it has no end; [[], \{ and \\ are those characters (in "" of TOML, \ is \\)`)
	}
	return check(pattern)
}

func checkPathPattern(pattern string) error {
	if pattern[0] != '/' {
		return fmt.Errorf("it must begin with a slash: /%s, or /**/%[1]s at any depth", pattern)
	}
	if clean := path.Clean(pattern); clean != pattern {
		return fmt.Errorf("no path is like that, it would be %s", clean)
	}
	return nil
}

// maxComm is TASK_COMM_LEN without the NUL byte: to this length the kernel cuts a process's name, proc_pid_comm(5).
const maxComm = 15

func checkCommPattern(pattern string) error {
	if len(pattern) > maxComm && !strings.ContainsAny(pattern, `*?[]{}\`) {
		return fmt.Errorf("the kernel cuts names to %d bytes, it would be %q", maxComm, strings.ToValidUTF8(pattern[:maxComm], "?"))
	}
	return nil
}

// lookupUID takes a number or a user's name.
func lookupUID(value any) (uint32, error) {
	switch v := value.(type) {
	case int64:
		if v < 0 || v >= math.MaxUint32 { // -1 is nobody's, credentials(7)
			return 0, fmt.Errorf("%d is no user id: they go from 0 to %d", v, uint32(math.MaxUint32-1))
		}
		return uint32(v), nil
	case string:
		if _, err := strconv.ParseUint(v, 10, 32); err == nil {
			return 0, fmt.Errorf("%q is a name; a user id is written without quotes: %s", v, v)
		}
		u, err := user.Lookup(v)
		if err != nil {
			return 0, fmt.Errorf("%w; a user that is not in /etc/passwd can be given by number", err)
		}
		uid, err := strconv.ParseUint(u.Uid, 10, 32)
		if err != nil {
			return 0, fmt.Errorf("user %q: %w", v, err)
		}
		return uint32(uid), nil
	default:
		return 0, nil // of the wrong type: told already
	}
}

func (c checker) bindspace(at string, b bindspaceTable) Bindspace {
	space := Bindspace{Path: b.Path, Sweep: b.Sweep == nil || *b.Sweep}
	switch {
	case b.Path == "":
		c.missing(at, "path")
	case !path.IsAbs(b.Path):
		c.bad(at+".path", "%q: it must be %s", b.Path, schema["bindspace.path"].want)
	case strings.ContainsRune(b.Path, 0):
		c.bad(at+".path", "%q: no path has a NUL byte", b.Path)
	case !isClean(b.Path):
		c.bad(at+".path", "%q: write %q, if that is what is meant", b.Path, path.Clean(b.Path))
	}
	for i, pattern := range b.Convention {
		convention, err := reap.ParseConvention(pattern)
		if err != nil {
			c.bad(fmt.Sprintf("%s.convention[%d]", at, i), "%v", err)
		}
		space.Conventions = append(space.Conventions, convention)
	}
	return space
}

func isClean(p string) bool {
	return path.IsAbs(p) && path.Clean(p) == p && !strings.ContainsRune(p, 0)
}
