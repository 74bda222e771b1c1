package proc

import (
	"io/fs"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/sockwatch/sockwatch/internal/testutil"
)

// hostileComm is a name of 13 bytes that a careless parser takes for the end of the name and more.
const hostileComm = "a) R 1 (b\nc )"

func TestStat(t *testing.T) {
	for _, want := range []Stat{
		{PID: 26231, Comm: "vim", State: 'R', PPID: 5392, PGRP: 7446, Session: 5392, TTY: 34835, StartTime: 82375},
		{PID: 26232, Comm: hostileComm, State: 'Z', PPID: 26231, PGRP: 26231, Session: 5392, StartTime: 1<<64 - 1},
		{PID: 26233, Comm: "sockwatch", State: 'S', PPID: 26231, PGRP: 26233, Session: 5392, StartTime: 4711},
	} {
		got, err := fixture.Stat(want.PID)
		must(t, err)
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%d (-want +got):\n%s", want.PID, diff)
		}
	}
}

func TestStatMalformed(t *testing.T) {
	whole := "1 (a) S 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20"
	if _, err := parseStat([]byte(whole)); err != nil {
		t.Fatal(err)
	}
	for _, s := range []string{
		"", "1", "1 (a", "1 (a)", "1 (a) ", ") 1 (", ") (", "1 a) S 2", " (a) S", whole[:len(whole)-3],
		strings.Replace(whole, "S", "SS", 1), strings.Replace(whole, "1 (", "x (", 1),
		strings.Replace(whole, " 2 ", " x ", 1), strings.Replace(whole, " 20", " -1", 1),
	} {
		if got, err := parseStat([]byte(s)); err == nil || got != (Stat{}) {
			t.Errorf("parseStat(%q) = %+v, %v; want an error", s, got, err)
		}
	}
}

func TestStatLive(t *testing.T) {
	child := testutil.Start(t, testutil.Command(t, "comm"))
	child.Expect("ready")
	s, err := FS("").Stat(child.PID())
	must(t, err)
	if s.PID != child.PID() || s.Comm != hostileComm || s.PPID != os.Getpid() {
		t.Errorf("%+v", s)
	}
	pgrp, err := unix.Getpgid(child.PID())
	must(t, err)
	session, err := unix.Getsid(child.PID())
	must(t, err)
	if s.PGRP != pgrp || s.Session != session {
		t.Errorf("%+v, want process group %d and session %d", s, pgrp, session)
	}
	self, err := FS("").Stat(os.Getpid())
	must(t, err)
	if self.StartTime == 0 || self.StartTime > s.StartTime {
		t.Errorf("the parent was started at %d, the child at %d", self.StartTime, s.StartTime)
	}
	if comm, err := FS("").Comm(child.PID()); err != nil || comm != hostileComm {
		t.Errorf("Comm: %q, %v", comm, err)
	}
}

func TestZombie(t *testing.T) {
	pid := zombie(t)
	s, err := FS("").Stat(pid)
	must(t, err)
	if s.State != 'Z' || s.PPID != os.Getpid() {
		t.Errorf("%+v", s)
	}
	if children, err := FS("").Children(pid); err != nil || len(children) != 0 {
		t.Errorf("Children: %v, %v", children, err)
	}
	switch err := last(FS("").Sockets(pid)); {
	case os.Geteuid() == 0 && err != nil:
		t.Errorf("Sockets: %v", err)
	case os.Geteuid() != 0 && !os.IsPermission(err):
		t.Errorf("Sockets without privilege: %v, want %v", err, fs.ErrPermission)
	}
}

// zombie returns the pid of a child that ended and is not reaped before the end of the test.
func zombie(t *testing.T) int {
	t.Helper()
	cmd := testutil.Command(t, "exit")
	must(t, cmd.Start())
	must(t, unix.Waitid(unix.P_PID, cmd.Process.Pid, nil, unix.WEXITED|unix.WNOWAIT, nil))
	return cmd.Process.Pid
}

func helperComm() {
	if err := os.WriteFile("/proc/self/comm", []byte(hostileComm), 0); err != nil {
		panic(err)
	}
	os.Stdout.WriteString("ready\n")
	untilHangup()
}

func FuzzStat(f *testing.F) {
	for _, pid := range []int{26231, 26232, 26233} {
		b, err := fixture.read(pid, "stat")
		must(f, err)
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := parseStat(b)
		if err != nil && s != (Stat{}) {
			t.Errorf("%+v beside %v", s, err)
		}
		if err == nil && !strings.Contains(string(b), "("+s.Comm+")") {
			t.Errorf("name %q", s.Comm)
		}
	})
}

func BenchmarkStat(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		if _, err := FS("").Stat(os.Getpid()); err != nil {
			b.Fatal(err)
		}
	}
}
