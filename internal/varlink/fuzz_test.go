package varlink

import (
	"bufio"
	"bytes"
	"encoding/json"
	"reflect"
	"testing"
	"unicode/utf8"
)

func FuzzRequest(f *testing.F) {
	for _, s := range []string{
		`{"method":"a.B"}`, `{"method":"a.B","parameters":{"text":"x","items":[{"name":"n","number":1}]},"more":true,"oneway":false}`,
		`{"method":"a.B","method":""}`, `[[[[`, `{"a":{"a":1}}`, "{\"\xff\":1}", `{"parameters":null}`, `{"method":"a.B"} `,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := parseRequest(b)
		if err != nil {
			return
		}
		if !utf8.Valid(b) || !json.Valid(b) {
			t.Fatalf("%q was accepted", b)
		}
		var in echoIn
		if e := decode(orDefaultParameters(r.Parameters), reflect.ValueOf(&in).Elem(), ""); e != nil {
			return
		}
		// What was understood is what another reader would understand.
		var other echoIn
		if err := json.Unmarshal(orDefaultParameters(r.Parameters), &other); err != nil || !reflect.DeepEqual(in, other) {
			t.Fatalf("%s: %+v, another reader: %+v, %v", r.Parameters, in, other, err)
		}
	})
}

func orDefaultParameters(b []byte) []byte {
	if b == nil {
		return []byte("{}")
	}
	return b
}

func FuzzReply(f *testing.F) {
	for _, s := range []string{
		"{}\x00", `{"parameters":{"a":1},"continues":true}` + "\x00", `{"error":"a.B","parameters":null}` + "\x00", `{"parameters":[]}` + "\x00",
		"\x00", "{",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := readReply(bufio.NewReader(bytes.NewReader(b)))
		if err == nil && r.err == nil && (!json.Valid(r.parameters) || r.parameters[0] != '{') {
			t.Fatalf("%q: %q", b, r.parameters)
		}
	})
}
