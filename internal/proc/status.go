package proc

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"
)

// Status is the part of /proc/PID/status that is needed here: proc_pid_status(5).
type Status struct {
	// TGID is the process id. It differs from the pid that was read when that is of a thread other than the leader.
	TGID int
	// UIDs and GIDs are seen from the reader's user namespace; what that does not map is the overflow id.
	UIDs, GIDs IDs
	// NSPIDs are the process's ids in the pid namespaces from procfs's own inwards. It is nil without CONFIG_PID_NS.
	NSPIDs []int
	// Groups are the supplementary groups.
	Groups []uint32
}

// IDs are the user or group ids of a process: credentials(7).
type IDs struct {
	Real, Effective, Saved, Filesystem uint32
}

// Status reads /proc/PID/status.
func (p FS) Status(pid int) (Status, error) {
	b, err := p.read(pid, "status")
	if err != nil {
		return Status{}, err
	}
	s, err := parseStatus(b)
	return s, parseError(p.pidPath(pid, "status"), err)
}

var errStatus = errors.New("not a status file")

func parseStatus(b []byte) (Status, error) {
	var s Status
	var tgid, uid, gid bool
	// The kernel escapes newlines in Name, so no process can forge a line.
	for line := range bytes.Lines(b) {
		key, value, _ := bytes.Cut(line, []byte(":"))
		var err error
		switch string(key) {
		case "Tgid":
			tgid = true
			s.TGID, err = strconv.Atoi(string(bytes.TrimSpace(value)))
		case "Uid":
			uid = true
			s.UIDs, err = parseIDs(value)
		case "Gid":
			gid = true
			s.GIDs, err = parseIDs(value)
		case "NSpid":
			s.NSPIDs, err = parseInts(value)
		case "Groups":
			s.Groups, err = parseGroups(value)
		}
		if err != nil {
			return Status{}, fmt.Errorf("%s: %w", key, err)
		}
	}
	if !tgid || !uid || !gid {
		return Status{}, errStatus
	}
	return s, nil
}

func parseIDs(b []byte) (IDs, error) {
	var ids [4]uint32
	n := 0
	for v := range bytes.FieldsSeq(b) {
		id, err := strconv.ParseUint(string(v), 10, 32)
		if err != nil {
			return IDs{}, err
		}
		if n == len(ids) {
			return IDs{}, errStatus
		}
		ids[n] = uint32(id)
		n++
	}
	if n != len(ids) {
		return IDs{}, errStatus
	}
	return IDs{Real: ids[0], Effective: ids[1], Saved: ids[2], Filesystem: ids[3]}, nil
}

func parseGroups(b []byte) ([]uint32, error) {
	var groups []uint32
	for v := range bytes.FieldsSeq(b) {
		id, err := strconv.ParseUint(string(v), 10, 32)
		if err != nil {
			return nil, err
		}
		groups = append(groups, uint32(id))
	}
	return groups, nil
}

// parseInts reads numbers that white space separates.
func parseInts(b []byte) ([]int, error) {
	var ints []int
	for v := range bytes.FieldsSeq(b) {
		n, err := strconv.Atoi(string(v))
		if err != nil {
			return nil, err
		}
		ints = append(ints, n)
	}
	return ints, nil
}
