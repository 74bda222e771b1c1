package reap

import (
	"os"
	"slices"
	"testing"

	"github.com/sockwatch/sockwatch/internal/testutil"
	"github.com/sockwatch/sockwatch/pidfd"
)

func TestWhose(t *testing.T) {
	byEachRoute(t, func(t *testing.T) {
		dir := testutil.TempDir(t)
		first, second, ended := startPuppet(t), startPuppet(t), startPuppet(t)
		first.do("bind", "stream", dir+"/a")
		first.do("bind", "dgram", dir+"/b")
		second.do("bind", "seqpacket", dir+"/c")
		second.do("bind", "stream", dir+"/d")
		second.do("close")
		ended.do("bind", "stream", dir+"/e")
		processes := []*pidfd.Process{ended.open(), first.open(), second.open(), openProcess(t, os.Getpid())}
		ended.child.Kill()
		var files []*File
		for _, name := range []string{"c", "a", "d", "b", "e"} {
			f, err := Open(dir + "/" + name)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			files = append(files, f)
		}
		for _, test := range []struct {
			files     []*File
			processes []*pidfd.Process
			want      []int
		}{
			{files, processes, []int{2, 1, -1, 1, -1}},
			{files, processes[2:], []int{0, -1, -1, -1, -1}},
			{files[:1], processes, []int{2}},
			{files[:2], nil, []int{-1, -1}},
			{nil, processes, []int{}},
		} {
			got, err := Whose(test.files, test.processes)
			if err != nil || !slices.Equal(got, test.want) {
				t.Errorf("of %d files and %d processes: %v, %v; want %v", len(test.files), len(test.processes), got, err, test.want)
			}
		}
	})
}

// TestWhoseShared has one socket open in two processes: it is said to be the first one's.
func TestWhoseShared(t *testing.T) {
	dir := testutil.TempDir(t)
	p, mail := startPuppet(t), startPuppet(t)
	mail.do("bind", "dgram", dir+"/mail")
	p.do("bind", "stream", dir+"/a")
	p.do("send", dir+"/mail")
	mail.do("receive")
	f, err := Open(dir + "/a")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for range 2 {
		got, err := Whose([]*File{f}, []*pidfd.Process{p.open(), mail.open()})
		if err != nil || !slices.Equal(got, []int{0}) {
			t.Errorf("%v, %v", got, err)
		}
		p, mail = mail, p
	}
}
