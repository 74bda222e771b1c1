package client

import _ "embed" // the description of the interface

// Interface is the name of the daemon's varlink interface, which Description describes in varlink's language.
const Interface = "io.sockwatch.Daemon"

// Description is the interface's description. The types here are its types.
//
//go:embed io.sockwatch.Daemon.varlink
var Description string

// WatchRequest are the parameters of Watch.
type WatchRequest struct {
	Process     string   `json:"process"` // PID:INODE, PID:tSTARTTIME or PID
	Name        string   `json:"name,omitempty"`
	Paths       []string `json:"paths,omitempty"`
	Bindspaces  []string `json:"bindspaces,omitempty"`
	Conventions []string `json:"conventions,omitempty"`
}

// Watched is the reply of Watch.
type Watched struct {
	ID     string `json:"id"`
	Claims int    `json:"claims"` // how many there are now
}

// Owner is a process that is watched.
type Owner struct {
	ID           string   `json:"id"`
	Process      string   `json:"process"`
	PID          int      `json:"pid"`
	Comm         string   `json:"comm"`
	UID          uint32   `json:"uid"`
	RegisteredBy *uint32  `json:"registered_by,omitempty"` // nil: found by the daemon itself
	Name         string   `json:"name,omitempty"`
	Bindspaces   []string `json:"bindspaces,omitempty"`
	Conventions  []string `json:"conventions,omitempty"`
	Ended        bool     `json:"ended"`
	Exit         string   `json:"exit,omitempty"`
	Claims       []Claim  `json:"claims"`
}

// Claim is a sock-file that is claimed for an Owner.
type Claim struct {
	Path
	Source  string `json:"source"`
	Pending bool   `json:"pending"`
	Outcome string `json:"outcome,omitempty"`
	Reason  string `json:"reason,omitempty"`
}

// Path is a path, and its bytes in base64 where it is not UTF-8.
type Path struct {
	Path    string `json:"path,omitempty"`
	PathB64 string `json:"path_b64,omitempty"`
}

// Event is what has happened.
type Event struct {
	Type    string  `json:"type"`
	Time    string  `json:"time"` // RFC 3339 with nanoseconds
	Process string  `json:"process"`
	PID     int     `json:"pid"`
	Comm    string  `json:"comm"`
	UID     *uint32 `json:"uid,omitempty"`
	Exit    string  `json:"exit,omitempty"`
	Path
	Source      string `json:"source,omitempty"`
	Outcome     string `json:"outcome,omitempty"`
	Reason      string `json:"reason,omitempty"`
	Error       string `json:"error,omitempty"`
	DryRun      bool   `json:"dry_run,omitempty"`
	AfterExitUS *int64 `json:"after_exit_us,omitempty"`
}

// Status is the state of the daemon.
type Status struct {
	PID            int    `json:"pid"`
	Version        string `json:"version"`
	Started        string `json:"started"`
	RuntimeDir     string `json:"runtime_dir"`
	Notify         string `json:"notify,omitempty"`
	DryRun         bool   `json:"dry_run"`
	Owners         int    `json:"owners"`
	Claims         int    `json:"claims"`
	EventsDropped  uint64 `json:"events_dropped"`
	ReportsDropped uint64 `json:"reports_dropped"`
	TraceHooks     string `json:"trace_hooks,omitempty"` // by which binds are seen; "" is none
	TraceLost      uint64 `json:"trace_lost,omitempty"`  // binds that came faster than they were read
}
