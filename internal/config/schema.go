package config

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/pelletier/go-toml/v2/unstable"
)

// form is what a key may hold.
type form struct {
	kinds []unstable.Kind // of the value, or of each value in the list
	list  bool
	want  string // for people
}

var (
	aString = []unstable.Kind{unstable.String}
	aTable  = []unstable.Kind{unstable.InlineTable}
)

// schema is every key that there is.
var schema = map[string]form{
	"dry_run":   {[]unstable.Kind{unstable.Bool}, false, "true or false"},
	"log_level": {aString, false, `"debug", "info", "warn" or "error"`},

	"metrics":        {aTable, false, "a table, headed [metrics]"},
	"metrics.listen": {aString, false, `"" (off), "unix:/run/sockwatch/metrics" or "127.0.0.1:9437"`},

	"trace":       {aTable, false, "a table, headed [trace]"},
	"trace.hooks": {aString, false, `"off", "auto", "fexit", "tracepoint" or "sys_exit"`},

	"rule":        {aTable, true, "a list of tables, each headed [[rule]]"},
	"rule.path":   {aString, true, `a list of patterns, such as ["/run/**/*.sock"]`},
	"rule.uid":    {[]unstable.Kind{unstable.Integer, unstable.String}, true, `a list of user ids and names, such as [1000, "www-data"]`},
	"rule.comm":   {aString, true, `a list of patterns, such as ["redis*"]`},
	"rule.cgroup": {aString, true, `a list of patterns, such as ["/system.slice/**"]`},
	"rule.action": {aString, false, `"reap", "report" or "ignore"`},

	"bindspace":            {aTable, true, "a list of tables, each headed [[bindspace]]"},
	"bindspace.path":       {aString, false, `an absolute path, such as "/run/myapp"`},
	"bindspace.sweep":      {[]unstable.Kind{unstable.Bool}, false, "true or false"},
	"bindspace.convention": {aString, true, `a list of conventions, such as ["{name}@{pid}.sock"]`},
}

// keysOf lists the keys of a table, "" for those outside of any.
func keysOf(table string) string {
	var keys []string
	for key := range maps.Keys(schema) {
		if rest, ok := strings.CutPrefix(key, join(table, "")); ok && !strings.Contains(rest, ".") {
			keys = append(keys, rest)
		}
	}
	slices.Sort(keys)
	return strings.Join(keys, ", ")
}

func join(table, key string) string {
	if table == "" {
		return key
	}
	return table + "." + key
}

// survey goes through a file before it is decoded. It finds all keys that are not in the schema and all values of a wrong
// type, where the decoder would stop at the first value, print Go types and take DRY_RUN for dry_run; and it notes where
// everything is, which the decoder does not tell.
type survey struct {
	parser   unstable.Parser
	problems problems
	places   map[string]place // by key, with the numbers of lists: rule[0], rule[0].path, rule[0].path[1]
	lengths  map[string]int   // of the lists of tables

	// The decoder counts other tables than the survey does, so places cannot be told from its results: it takes keys in
	// another case, and makes an element of rule for [rule] and [[rule.x]].
	apart bool
}

func surveyOf(data []byte) *survey {
	s := &survey{places: map[string]place{}, lengths: map[string]int{}}
	s.parser.Reset(data)
	table, at := "", "" // the table that keys belong to, and its place
	known := true
	for s.parser.NextExpression() {
		switch e := s.parser.Expression(); e.Kind {
		case unstable.Table, unstable.ArrayTable:
			table, at, known = s.header(e)
		case unstable.KeyValue:
			if known { // an unknown table is told of once
				s.keyValue(table, at, e)
			}
		}
	}
	var syntax *unstable.ParserError
	if err := s.parser.Error(); errors.As(err, &syntax) {
		s.problems.add(placeOf(data, int(s.parser.Range(syntax.Highlight).Offset)), "", "%s", syntax.Message)
	} else if err != nil {
		s.problems.add(place{1, 1}, "", "%v", err)
	}
	return s
}

// header takes a line [table] or [[table]].
func (s *survey) header(e *unstable.Node) (table, at string, known bool) {
	table, where := s.key("", e.Key())
	f, known := s.lookup(where, table)
	isList := e.Kind == unstable.ArrayTable
	if !known {
		s.apart = s.apart || strings.Contains(table, ".")
		return "", "", false
	}
	if f.list != isList || f.kinds[0] != unstable.InlineTable {
		s.problems.add(where, table, "it must be %s", f.want)
		s.apart = true
		return "", "", false
	}
	at = table
	if isList {
		at = fmt.Sprintf("%s[%d]", table, s.lengths[table])
		s.lengths[table]++
	}
	s.places[at] = where
	return table, at, true
}

// keyValue takes a line key = value, or the like in an inline table.
func (s *survey) keyValue(table, at string, e *unstable.Node) {
	key, where := s.key(table, e.Key())
	f, known := s.lookup(where, key)
	if !known {
		return
	}
	// rule.path = ... is a key of the one table rule, which there is not.
	if parent := key[:max(0, strings.LastIndexByte(key, '.'))]; parent != table && schema[parent].list {
		s.problems.add(where, key, "%s must be %s", parent, schema[parent].want)
		s.apart = true
		return
	}
	at = join(at, strings.TrimPrefix(key[len(table):], "."))
	s.places[at] = where
	value := e.Value()
	if !f.list {
		s.value(f, key, at, where, value)
		return
	}
	if value.Kind != unstable.Array {
		s.wrong(f, key, where, value)
		return
	}
	i := 0
	for it := value.Children(); it.Next(); i++ {
		s.value(f, key, fmt.Sprintf("%s[%d]", at, i), where, it.Node())
	}
}

// value takes one value of a key, whose place is that of the key where its own is not known.
func (s *survey) value(f form, key, at string, where place, value *unstable.Node) {
	if value.Raw.Length > 0 {
		where = s.place(value)
	}
	s.places[at] = where
	if !slices.Contains(f.kinds, value.Kind) {
		s.wrong(f, key, where, value)
		return
	}
	if value.Kind == unstable.InlineTable {
		for it := value.Children(); it.Next(); {
			s.keyValue(key, at, it.Node())
		}
	}
}

func (s *survey) wrong(f form, key string, where place, value *unstable.Node) {
	if value.Raw.Length > 0 {
		where = s.place(value)
	}
	s.problems.add(where, key, "it must be %s, and not %s", f.want, kindNames[value.Kind])
}

var kindNames = map[unstable.Kind]string{
	unstable.Array: "a list", unstable.InlineTable: "a table", unstable.String: "a string", unstable.Bool: "true or false",
	unstable.Float: "a fraction", unstable.Integer: "a number", unstable.LocalDate: "a date", unstable.LocalTime: "a time",
	unstable.LocalDateTime: "a time", unstable.DateTime: "a time",
}

// bare is what a key may have without quotes.
const bare = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-"

// key puts the parts of a key together, and tells where it begins. A part that needs quotes is no key of ours, and must not
// look like one.
func (s *survey) key(table string, parts unstable.Iterator) (key string, where place) {
	key = table
	for first := true; parts.Next(); first = false {
		if first {
			where = s.place(parts.Node())
		}
		part := string(parts.Node().Data)
		if part == "" || strings.Trim(part, bare) != "" {
			part = fmt.Sprintf("%q", part)
		}
		key = join(key, part)
	}
	return key, where
}

func (s *survey) lookup(where place, key string) (form, bool) {
	f, known := schema[key]
	if !known {
		s.unknown(where, key)
	}
	return f, known
}

// unknown says which keys there are in the innermost table that there is.
func (s *survey) unknown(where place, key string) {
	for known := range schema {
		if strings.EqualFold(known, key) {
			s.apart = true
			s.problems.add(where, key, "there is no such key; write %s", known[strings.LastIndexByte(known, '.')+1:])
			return
		}
	}
	table := key
	for {
		table = table[:max(0, strings.LastIndexByte(table, '.'))]
		f, known := schema[table]
		switch {
		case table == "":
			s.problems.add(where, key, "there is no such key; the keys outside of tables are %s", keysOf(""))
		case known && f.kinds[0] != unstable.InlineTable:
			s.problems.add(where, key, "there is no such key; %s is %s", table, f.want)
		case known && f.list:
			s.problems.add(where, key, "there is no such key; the keys of [[%s]] are %s", table, keysOf(table))
		case known:
			s.problems.add(where, key, "there is no such key; the keys of [%s] are %s", table, keysOf(table))
		default:
			continue
		}
		return
	}
}

func (s *survey) place(n *unstable.Node) place { return placeOf(s.parser.Data(), int(n.Raw.Offset)) }
