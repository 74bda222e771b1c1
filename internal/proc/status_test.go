package proc

import (
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestStatus(t *testing.T) {
	want := Status{
		TGID:   26231,
		UIDs:   IDs{1000, 1001, 1002, 1003},
		GIDs:   IDs{2000, 2001, 2002, 1<<32 - 2},
		Groups: []uint32{4, 24, 27, 1000},
	}
	got, err := fixture.Status(26231)
	must(t, err)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("without pid namespaces (-want +got):\n%s", diff)
	}

	want.TGID, want.NSPIDs = 26232, []int{26232, 77, 1}
	got, err = fixture.Status(26232)
	must(t, err)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestStatusMalformed(t *testing.T) {
	whole := "Tgid:\t1\nUid:\t1\t2\t3\t4\nGid:\t1\t2\t3\t4\nNSpid:\t1\n"
	if _, err := parseStatus([]byte(whole)); err != nil {
		t.Fatal(err)
	}
	for _, s := range []string{
		"", "Tgid", "Tgid:\t1\n", strings.TrimPrefix(whole, "Tgid:\t1\n"),
		strings.Replace(whole, "Uid:\t1", "Uid:\t", 1), strings.Replace(whole, "Uid:\t1", "Uid:\t1\t1", 1),
		strings.Replace(whole, "Gid:\t1", "Gid:\t-1", 1), strings.Replace(whole, "Gid:\t1", "Gid:\t4294967296", 1),
		strings.Replace(whole, "NSpid:\t1", "NSpid:\tx", 1), whole + "Groups:\t-1\n", strings.Replace(whole, "Tgid:\t1", "Tgid:\t", 1),
	} {
		if got, err := parseStatus([]byte(s)); err == nil {
			t.Errorf("parseStatus(%q) = %+v; want an error", s, got)
		}
	}
}

func TestStatusLive(t *testing.T) {
	got, err := FS("").Status(os.Getpid())
	must(t, err)
	ours, err := os.Getgroups()
	must(t, err)
	var groups []uint32
	for _, g := range ours {
		groups = append(groups, uint32(g))
	}
	want := Status{
		TGID:   os.Getpid(),
		UIDs:   IDs{uint32(os.Getuid()), uint32(os.Geteuid()), uint32(os.Geteuid()), uint32(os.Geteuid())},
		GIDs:   IDs{uint32(os.Getgid()), uint32(os.Getegid()), uint32(os.Getegid()), uint32(os.Getegid())},
		NSPIDs: got.NSPIDs,
		Groups: groups,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if n := len(got.NSPIDs); n > 0 && got.NSPIDs[n-1] != os.Getpid() {
		t.Errorf("NSPIDs %v, want %d last", got.NSPIDs, os.Getpid())
	}
}

func FuzzStatus(f *testing.F) {
	for _, pid := range []int{26231, 26232} {
		b, err := fixture.read(pid, "status")
		must(f, err)
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := parseStatus(b)
		if err != nil && (s.TGID != 0 || s.NSPIDs != nil) {
			t.Errorf("%+v beside %v", s, err)
		}
	})
}
