package pidfd

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/sockwatch/sockwatch/internal/testutil"
)

func TestIdentityOpen(t *testing.T) {
	child := idle(t)
	id, err := open(t, child.PID()).Identity()
	if err != nil {
		t.Fatal(err)
	}
	if id.PID != child.PID() || id.BootID == "" || (id.Inode == 0) == (id.StartTime == 0) {
		t.Errorf("identity %+v", id)
	}
	stat, err := procfs.Stat(child.PID())
	if err != nil {
		t.Fatal(err)
	}
	parsed, err := ParseIdentity(id.String())
	if err != nil {
		t.Fatal(err)
	}

	// Everything that is known agrees.
	for _, same := range []Identity{
		id,
		parsed,
		{PID: id.PID},
		{PID: id.PID, BootID: id.BootID},
		{PID: id.PID, StartTime: stat.StartTime},
		{PID: id.PID, StartTime: stat.StartTime, Inode: id.Inode, BootID: id.BootID},
	} {
		p, err := same.Open()
		if err != nil {
			t.Errorf("%v: %v", same, err)
			continue
		}
		if again, err := p.Identity(); again != id || err != nil {
			t.Errorf("%v: opened %+v, %v; want %+v", same, again, err, id)
		}
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	}

	// Something does not.
	otherBoot := id
	otherBoot.BootID = "01234567-89ab-cdef-0123-456789abcdef"
	for _, other := range []Identity{
		otherBoot,
		{PID: id.PID, BootID: otherBoot.BootID},
		{PID: id.PID, StartTime: stat.StartTime + 1},
		{PID: id.PID, StartTime: stat.StartTime + 1, Inode: id.Inode},
	} {
		_, err := other.Open()
		wantErr(t, err, ErrExited)
		if !strings.Contains(fmt.Sprint(err), other.String()) {
			t.Errorf("%q does not name %v", err, other)
		}
	}

	child.Kill()
	_, err = id.Open()
	wantErr(t, err, ErrExited)
}

func TestIdentityInode(t *testing.T) {
	testutil.Require(t, testutil.Pidfs)
	id, err := open(t, os.Getpid()).Identity()
	if err != nil {
		t.Fatal(err)
	}
	if id.Inode == 0 || id.StartTime != 0 {
		t.Errorf("identity %+v", id)
	}
	id.Inode++
	_, err = id.Open()
	wantErr(t, err, ErrExited)
}

// TestIdentityExec: a process that executes another program stays the same process.
func TestIdentityExec(t *testing.T) {
	child := testutil.Start(t, exec.Command("sh", "-c", "read x; exec cat"))
	p := open(t, child.PID())
	before, err := p.Identity()
	if err != nil {
		t.Fatal(err)
	}
	child.Say("exec")
	child.Say("cat now")
	child.Expect("cat now")
	if info, err := p.Info(); info.Comm != "cat" || err != nil {
		t.Errorf("info %+v, %v", info, err)
	}
	again, err := before.Open()
	if err != nil {
		t.Fatal(err)
	}
	closeAtEnd(t, again)
	if after, err := again.Identity(); after != before || err != nil {
		t.Errorf("identity %+v, %v; it was %+v", after, err, before)
	}
}

func TestParseIdentity(t *testing.T) {
	for text, want := range map[string]Identity{
		"1":                               {PID: 1},
		"4194304:18446744073709551615":    {PID: 4194304, Inode: 1<<64 - 1},
		"17:1":                            {PID: 17, Inode: 1},
		"17:t1":                           {PID: 17, StartTime: 1},
		"2147483647:t9223372036854775808": {PID: 1<<31 - 1, StartTime: 1 << 63},
	} {
		if got, err := ParseIdentity(text); got != want || err != nil {
			t.Errorf("%q: %+v, %v; want %+v", text, got, err, want)
		}
		if got := want.String(); got != text {
			t.Errorf("%+v is %q, want %q", want, got, text)
		}
	}
	for _, text := range []string{
		"", ":", "0", "-1", "+1", " 1", "1 ", "1_0", "0x1", "2147483648", "4294967297", "pid",
		"0:1", ":1", "1:", "1:0", "1:-1", "1:+1", "1:t", "1:t0", "1:t-1", "1:T1", "1:tt1", "1:1:1", "1:t1:1",
		"1:18446744073709551616", "1:x",
	} {
		id, err := ParseIdentity(text)
		if err == nil {
			t.Errorf("%q: %+v", text, id)
		} else if !strings.Contains(err.Error(), fmt.Sprintf("%q", text)) {
			t.Errorf("%q does not name the text %q", err, text)
		}
	}
}

func TestIdentityTextKeepsAll(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		id := Identity{PID: rapid.IntRange(1, 1<<31-1).Draw(t, "pid")}
		switch rapid.IntRange(0, 2).Draw(t, "form") {
		case 1:
			id.Inode = rapid.Uint64Min(1).Draw(t, "inode")
		case 2:
			id.StartTime = rapid.Uint64Min(1).Draw(t, "start time")
		}
		if got, err := ParseIdentity(id.String()); got != id || err != nil {
			t.Errorf("%+v is read as %+v, %v", id, got, err)
		}
	})
}

func FuzzParseIdentity(f *testing.F) {
	for _, text := range []string{"1", "17:4711", "17:t4711", "1:t0", "0:1", "1:1:1"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		id, err := ParseIdentity(text)
		if err != nil {
			if id != (Identity{}) {
				t.Errorf("%q: %+v with error %v", text, id, err)
			}
			return
		}
		if id.PID <= 0 || id.BootID != "" {
			t.Errorf("%q: %+v", text, id)
		}
		if again, err := ParseIdentity(id.String()); again != id || err != nil {
			t.Errorf("%q: %+v, and then %+v, %v", text, id, again, err)
		}
	})
}
