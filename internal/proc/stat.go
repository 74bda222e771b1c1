package proc

import (
	"bytes"
	"errors"
	"strconv"
)

// Stat is the part of /proc/PID/stat that is needed here: proc_pid_stat(5).
type Stat struct {
	PID  int
	Comm string // up to 15 bytes of any value, of a kernel thread up to 63
	// State is 'R', 'S', 'D', 'T', 't', 'Z', 'X' or 'I'. A process whose leader is a zombie may have other threads that
	// live.
	State         byte
	PPID          int // 0 when the parent is outside of this procfs's pid namespace
	PGRP, Session int
	TTY           int // device number of the controlling terminal, or 0
	// StartTime is in clock ticks (sysconf(_SC_CLK_TCK), 100 a second) since boot. The reader's time namespace shifts
	// it.
	StartTime uint64
}

// Stat reads /proc/PID/stat.
func (p FS) Stat(pid int) (Stat, error) {
	b, err := p.read(pid, "stat")
	if err != nil {
		return Stat{}, err
	}
	s, err := parseStat(b)
	return s, parseError(p.pidPath(pid, "stat"), err)
}

var errStat = errors.New("not a stat line")

func parseStat(b []byte) (Stat, error) {
	// The name is not escaped and may hold anything, ") R 1" included; behind it there are numbers only.
	pid, _, ok := bytes.Cut(b, []byte(" ("))
	end := bytes.LastIndex(b, []byte(") "))
	if !ok || end < len(pid)+2 {
		return Stat{}, errStat
	}
	s := Stat{Comm: string(b[len(pid)+2 : end])}
	var err error
	if s.PID, err = strconv.Atoi(string(pid)); err != nil {
		return Stat{}, err
	}

	// Counted as in proc_pid_stat(5).
	field := 2
	for v := range bytes.FieldsSeq(b[end+2:]) {
		field++
		switch field {
		case 3:
			if len(v) != 1 {
				return Stat{}, errStat
			}
			s.State = v[0]
		case 4:
			s.PPID, err = strconv.Atoi(string(v))
		case 5:
			s.PGRP, err = strconv.Atoi(string(v))
		case 6:
			s.Session, err = strconv.Atoi(string(v))
		case 7:
			s.TTY, err = strconv.Atoi(string(v))
		case 22:
			if s.StartTime, err = strconv.ParseUint(string(v), 10, 64); err == nil {
				return s, nil
			}
		}
		if err != nil {
			return Stat{}, err
		}
	}
	return Stat{}, errStat
}
