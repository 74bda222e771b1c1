package main

import (
	"errors"
	"fmt"
	"os"

	"github.com/sockwatch/sockwatch/reap"
	"github.com/sockwatch/sockwatch/watch"
)

// eventLog writes a Watcher's Events to a file, as JSON lines.
type eventLog struct {
	file *os.File
	out  *output
	sub  *watch.Subscription
	done chan struct{}
}

// eventBuffer is room for the Events of an owner with as many claims at its end.
const eventBuffer = 16 << 10

// logEvents appends the Events of w to the file, which is made if it is missing.
func logEvents(w *watch.Watcher, path string) (*eventLog, error) {
	f, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, fmt.Errorf("--events: %w", err)
	}
	l := &eventLog{file: f, out: newOutput(f), sub: w.Subscribe(eventBuffer), done: make(chan struct{})}
	go func() {
		defer close(l.done)
		for e := range l.sub.C() {
			l.out.object(newJSONEvent(e))
		}
	}()
	return l, nil
}

// close writes what has happened until now.
func (l *eventLog) close() error {
	l.sub.Close()
	<-l.done
	err := errors.Join(l.out.err, l.file.Close())
	if n := l.sub.Dropped(); n > 0 {
		err = errors.Join(err, fmt.Errorf("%d events are missing in it: they came faster than they could be written", n))
	}
	if err != nil {
		return fmt.Errorf("--events %s: %w", l.file.Name(), err)
	}
	return nil
}

// jsonEvent is an Event in the JSON interface.
type jsonEvent struct {
	Type string   `json:"type"`
	Time jsonTime `json:"time"`
	PID  int      `json:"pid"`
	Comm string   `json:"comm"`
	*jsonPath
	Source      string      `json:"source,omitempty"`
	Outcome     string      `json:"outcome,omitempty"`
	Reason      reap.Reason `json:"reason,omitempty"`
	Error       string      `json:"error,omitempty"`
	Exit        string      `json:"exit,omitempty"`
	AfterExitUS *int64      `json:"after_exit_us,omitempty"`
}

func newJSONEvent(e watch.Event) jsonEvent {
	j := jsonEvent{Type: e.Kind.String(), Time: jsonTime(e.Time), PID: e.Owner.PID, Comm: e.Comm}
	if e.Kind == watch.KindExited {
		j.Exit = e.Exit.String()
		return j
	}
	path := newJSONPath(e.Result.Path)
	j.jsonPath, j.Source = &path, e.Source.String()
	if e.Kind == watch.KindOutcome {
		us := e.AfterExit.Microseconds()
		j.Outcome, j.Reason, j.AfterExitUS = e.Result.Outcome.String(), e.Result.Reason, &us
		if e.Result.Err != nil {
			j.Error = e.Result.Err.Error()
		}
	}
	return j
}
