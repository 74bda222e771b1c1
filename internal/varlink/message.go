package varlink

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"reflect"
	"strings"
	"unicode/utf8"
)

// request is a call as it comes over the wire.
type request struct {
	Method     string          `json:"method"`
	Parameters json.RawMessage `json:"parameters,omitempty"`
	More       bool            `json:"more,omitempty"`
	Oneway     bool            `json:"oneway,omitempty"`
	Upgrade    bool            `json:"upgrade,omitempty"`
}

// reply is an answer as it goes over the wire.
type reply struct {
	Parameters any    `json:"parameters"`
	Continues  bool   `json:"continues,omitempty"`
	Error      string `json:"error,omitempty"`
}

// maxDepth is how deep the objects and arrays of a request may be nested.
const maxDepth = 16

// parseRequest reads a message without its NUL.
func parseRequest(b []byte) (request, error) {
	var r request
	if err := checkJSON(b); err != nil {
		return r, err
	}
	if e := decode(b, reflect.ValueOf(&r).Elem(), ""); e != nil {
		return r, e
	}
	return r, nil
}

// checkJSON refuses what encoding/json would read leniently, as one reader does and another does not.
func checkJSON(b []byte) error {
	if !utf8.Valid(b) {
		return errors.New("is not UTF-8")
	}
	if !bytes.HasPrefix(bytes.TrimLeft(b, " \t\r\n"), []byte("{")) {
		return errors.New("is not an object")
	}
	d := json.NewDecoder(bytes.NewReader(b))
	d.UseNumber()
	type level struct {
		keys    map[string]bool // nil for an array
		isValue bool            // the next token of the object is a value, not a key
	}
	var open []level
	for {
		token, err := d.Token()
		if err != nil {
			return notJSON(err)
		}
		if delim, ok := token.(json.Delim); ok && (delim == '}' || delim == ']') {
			open = open[:len(open)-1]
			if len(open) > 0 {
				continue
			}
			if _, err := d.Token(); !errors.Is(err, io.EOF) {
				return errors.New("has something behind its object")
			}
			return nil
		}
		if top := len(open) - 1; top >= 0 && open[top].keys != nil {
			l := &open[top]
			if !l.isValue {
				key, _ := token.(string) // the decoder lets nothing else be a key
				if l.keys[key] {
					return fmt.Errorf("has the key %.40q twice", key)
				}
				l.keys[key], l.isValue = true, true
				continue
			}
			l.isValue = false
		}
		if delim, ok := token.(json.Delim); ok {
			if len(open) == maxDepth {
				return fmt.Errorf("is nested more than %d deep", maxDepth)
			}
			l := level{}
			if delim == '{' {
				l.keys = map[string]bool{}
			}
			open = append(open, l)
		}
	}
}

func notJSON(err error) error {
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return fmt.Errorf("is not JSON: %.100s", err.Error())
}

var unmarshaler = reflect.TypeFor[json.Unmarshaler]()

// decode puts b, which checkJSON has seen, into v. The path is what v is called in the error.
func decode(b []byte, v reflect.Value, path string) *Error {
	invalid := func() *Error { return InvalidParameterError(path) }
	isNull := string(bytes.TrimSpace(b)) == "null"
	switch {
	case v.Kind() == reflect.Pointer:
		if isNull {
			return nil
		}
		v.Set(reflect.New(v.Type().Elem()))
		return decode(b, v.Elem(), path)
	case isNull:
		return invalid() // which encoding/json takes for anything
	case v.Addr().Type().Implements(unmarshaler):
	case v.Kind() == reflect.Slice && v.Type().Elem().Kind() != reflect.Uint8:
		var elements []json.RawMessage
		if json.Unmarshal(b, &elements) != nil {
			return invalid()
		}
		v.Set(reflect.MakeSlice(v.Type(), len(elements), len(elements)))
		for i, element := range elements {
			if e := decode(element, v.Index(i), fmt.Sprintf("%s[%d]", path, i)); e != nil {
				return e
			}
		}
		return nil
	case v.Kind() == reflect.Struct:
		return decodeStruct(b, v, path)
	}
	if json.Unmarshal(b, v.Addr().Interface()) != nil {
		return invalid()
	}
	return nil
}

func decodeStruct(b []byte, v reflect.Value, path string) *Error {
	var given map[string]json.RawMessage
	if json.Unmarshal(b, &given) != nil {
		return InvalidParameterError(path)
	}
	join := func(name string) string { return strings.TrimPrefix(path+"."+name, ".") }
	for i := range v.NumField() {
		name, options, _ := strings.Cut(v.Type().Field(i).Tag.Get("json"), ",")
		if name == "" || name == "-" {
			continue
		}
		value, ok := given[name]
		delete(given, name)
		isOptional := v.Field(i).Kind() == reflect.Pointer || options == "omitempty"
		if isOptional && (!ok || string(value) == "null") {
			continue
		}
		if !ok {
			return InvalidParameterError(join(name))
		}
		if e := decode(value, v.Field(i), join(name)); e != nil {
			return e
		}
	}
	unknown := ""
	for name := range given {
		if unknown == "" || name < unknown {
			unknown = name
		}
	}
	if len(given) > 0 {
		return InvalidParameterError(join(unknown))
	}
	return nil
}
