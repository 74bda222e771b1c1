package main

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"pgregory.net/rapid"
)

func TestEscapeName(t *testing.T) {
	for name, want := range map[string]string{
		"":                       "",
		"plain @1.sock":          "plain @1.sock",
		"über/日本":                "über/日本",
		"tab\tnewline\nreturn\r": `tab\tnewline\nreturn\r`,
		"\x1b]0;title\a\x7f":     `\x1b]0;title\a\x7f`,
		"\u009b31m":              `\u009b31m`,
		"gnp\u202egpj":           `gnp\u202egpj`,
		"\xff\xfe":               `\xff\xfe`,
		"cut \xef":               `cut \xef`,
		"\uFFFD":                 "\uFFFD",
		`dev-x\x2dy`:             `dev-x\\x2dy`,
	} {
		if got := escapeName(name); got != want {
			t.Errorf("escapeName(%q) = %s, want %s", name, got, want)
		}
	}
	if got := escapeText(`"\x1b"` + "\x1b"); got != `"\x1b"\x1b` {
		t.Errorf("escapeText = %s", got)
	}
}

func TestEscapeNameIsSafeAndUnique(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		name := rapid.Map(rapid.SliceOf(rapid.Byte()), func(b []byte) string { return string(b) })
		nasty := rapid.StringMatching(`[\\xn1b\n\x1b\x{202e}é]{0,6}`)
		a, b := rapid.OneOf(name, nasty).Draw(t, "a"), rapid.OneOf(name, nasty).Draw(t, "b")
		got := escapeName(a)
		if !utf8.ValidString(got) || strings.IndexFunc(got, func(r rune) bool { return !unicode.IsPrint(r) }) >= 0 {
			t.Fatalf("escapeName(%q) = %q", a, got)
		}
		if a != b && got == escapeName(b) {
			t.Fatalf("%q and %q are both %s", a, b, got)
		}
	})
}

func TestObjectIsSafeAndTheSame(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		name := rapid.OneOf(rapid.String(), rapid.StringMatching(`[\x{7f}\x{9b}\x{202e}\x{e0001}\\n]{0,6}`)).Draw(t, "name")
		var line bytes.Buffer
		(&output{w: &line}).object(map[string]string{"name": name})
		text, ends := strings.CutSuffix(line.String(), "\n")
		if !ends || !fit(text) {
			t.Fatalf("%q gives %q", name, text)
		}
		var got map[string]string
		if err := json.Unmarshal(line.Bytes(), &got); err != nil || got["name"] != name {
			t.Fatalf("%q gives %s: %v", name, text, err)
		}
	})
}
