package testutil

import (
	"bytes"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestMainFindsLeaks(t *testing.T) {
	for what, want := range map[string]struct {
		code int
		says string
	}{
		"nothing":    {0, ""},
		"failure":    {7, ""},
		"descriptor": {1, "left behind: descriptor "},
		"closed":     {1, "left behind: closed descriptor 0"},
		"goroutine":  {1, "found unexpected goroutines"},
		"child":      {1, "left behind: child processes: "},
	} {
		t.Run(what, func(t *testing.T) {
			cmd := Command(t, "leak", what)
			var said bytes.Buffer
			cmd.Stderr = &said
			_ = cmd.Run() // the code says it
			if code := cmd.ProcessState.ExitCode(); code != want.code {
				t.Errorf("exit status %d, want %d", code, want.code)
			}
			if !strings.Contains(said.String(), want.says) || (want.says == "") != (said.Len() == 0) {
				t.Errorf("said %q, want %q", said.String(), want.says)
			}
		})
	}
}

func TestMainRefusesUnknownNames(t *testing.T) {
	for child, require := range map[string]string{"leak": "root,rooot", "no-such-helper": ""} {
		cmd := Command(t, child, "nothing")
		cmd.Env = append(cmd.Env, requireEnv+"="+require)
		cmd.Stderr = nil
		_ = cmd.Run()
		if code := cmd.ProcessState.ExitCode(); code != 2 {
			t.Errorf("helper %q requiring %q: exit status %d, want 2", child, require, code)
		}
	}
}

func TestChildSpeaks(t *testing.T) {
	child := Start(t, Command(t, "echo", "one", "two"))
	child.Expect("ready")
	child.Expect("one")
	child.Expect("two")
	child.Say("three")
	child.Expect("three")
	child.Hangup()
	if err := child.Cmd.Wait(); err != nil {
		t.Error(err)
	}
}

func TestNoTestOnFirstThread(t *testing.T) {
	end := make(chan struct{})
	defer close(end)
	for range 20 { // each keeps its thread, so that the next has another
		tid := make(chan int)
		go func() {
			runtime.LockOSThread()
			tid <- unix.Gettid()
			<-end
		}()
		if <-tid == unix.Getpid() {
			t.Fatal("a goroutine of a test can have the first thread of the process")
		}
	}
}

// TestChildIsKilled leaves its children to the end of the test; Main finds them
// if they stay.
func TestChildIsKilled(t *testing.T) {
	Start(t, Command(t, "echo")).Expect("ready")
	killed := Start(t, Command(t, "echo"))
	killed.Kill()
}

func TestTempDirIsShort(t *testing.T) {
	if dir := TempDir(t); len(dir) > 40 {
		t.Errorf("%s is %d bytes long", dir, len(dir))
	}
}

func TestFeatures(t *testing.T) {
	for _, f := range []Feature{Root, BPF, Pidfs, InfoExit, UserNS, Overlay, Ext4, Tmpfs, Program("go")} {
		t.Run(f.String(), func(t *testing.T) { Require(t, f) })
	}
	for _, fs := range []Feature{Ext4, Tmpfs} {
		t.Run("directory on "+fs.String(), func(t *testing.T) { t.Log(Dir(t, fs)) })
	}
}
