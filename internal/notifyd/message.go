package notifyd

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"
)

// Message is what a report says.
type Message struct {
	Changes []Change // in the order of the message
	Name    string   // NAME=
	PID     int      // PID=: the process that the report is about; 0 is the sender
}

// Change is one BIND= or UNBIND=.
type Change struct {
	Unbind bool
	Path   string // absolute, as the process it is about sees it
}

// Limits on a message. A datagram over maxMessage is refused whole, since the kernel cuts it off.
const (
	maxMessage = 32 << 10
	maxPath    = 4095 // PATH_MAX without its NUL
	maxName    = 255
)

// Parse reads a message: lines KEY=value, the last newline is optional. Keys that are not known are passed over, for those to come.
func Parse(b []byte) (Message, error) {
	var m Message
	for line := range bytes.Lines(b) {
		line = bytes.TrimSuffix(line, []byte("\n"))
		if len(line) == 0 {
			continue
		}
		key, value, ok := bytes.Cut(line, []byte("="))
		if !ok || len(key) == 0 {
			return Message{}, fmt.Errorf("line %q is not KEY=value", clip(line))
		}
		if err := m.set(string(key), value); err != nil {
			return Message{}, fmt.Errorf("%s=%q: %w", clip(key), clip(value), err)
		}
	}
	if len(m.Changes) == 0 && m.Name == "" {
		return Message{}, errors.New("nothing is reported: neither BIND= nor UNBIND= nor NAME=")
	}
	return m, nil
}

func (m *Message) set(key string, value []byte) error {
	switch key {
	case "BIND", "UNBIND":
		switch {
		case len(value) == 0 || value[0] != '/':
			return errors.New("the path is not absolute")
		case len(value) > maxPath:
			return errors.New("the path is too long")
		case bytes.IndexByte(value, 0) >= 0:
			return errors.New("a path cannot hold a NUL byte")
		}
		m.Changes = append(m.Changes, Change{Unbind: key == "UNBIND", Path: string(value)})
	case "NAME":
		if len(value) == 0 || len(value) > maxName || bytes.ContainsAny(value, "/\x00") {
			return errors.New("a name has 1 to 255 bytes, and neither a slash nor a NUL byte")
		}
		m.Name = string(value)
	case "PID":
		pid, err := strconv.ParseInt(string(value), 10, 32)
		if err != nil || pid <= 0 {
			return errors.New("not a process id")
		}
		m.PID = int(pid)
	}
	return nil
}

// clip keeps what is quoted in an error short.
func clip(b []byte) []byte {
	const most = 100
	if len(b) > most {
		return append(bytes.Clone(b[:most]), "..."...)
	}
	return b
}
