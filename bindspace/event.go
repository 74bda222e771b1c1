package bindspace

import "github.com/sockwatch/sockwatch/pidfd"

// Event tells what happened in a directory.
type Event struct {
	Dir  *Dir
	Op   Op
	Name string // of Appeared and Vanished

	// Of Appeared, where fanotify tells it: who made the name. Of a name that was moved there it is not known. PID is its number in our pid
	// namespace, 0 when it is not known or has none. Process is the receiver's to Close; nil when the process was reaped before the event was read, or is not known.
	PID     int
	Process *pidfd.Process
}

// Close gives up what the Event holds.
func (e Event) Close() {
	if e.Process != nil {
		_ = e.Process.Close()
	}
}

// Op says what happened.
type Op int

// What happens in a directory.
const (
	Appeared Op = iota + 1 // a name was made in it, or moved into it
	Vanished               // a name was removed from it; not: moved away, within it or out of it
	Rescan                 // events were lost, or it is another directory now: all of it is to be looked at
)
