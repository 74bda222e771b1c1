package watch_test

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/sockwatch/sockwatch/pidfd"
	"github.com/sockwatch/sockwatch/reap"
	"github.com/sockwatch/sockwatch/watch"
)

// A process is killed, by whomever. The sock-file that is claimed for it goes at that moment.
func Example() {
	dir, err := os.MkdirTemp("", "watch")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "server.sock")

	w, err := watch.New(watch.Options{})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer w.Close()
	events := w.Subscribe(16)
	defer events.Close()

	server := exec.Command("sleep", "infinity") // it would bind path
	if err := server.Start(); err != nil {
		fmt.Println(err)
		return
	}
	defer func() { _ = server.Wait() }()
	p, err := pidfd.FromProcess(server.Process)
	if err != nil {
		fmt.Println(err)
		return
	}
	owner, err := w.Add(p, watch.OwnerOptions{Paths: []string{path}})
	if err != nil {
		fmt.Println(err)
		return
	}
	leaveSockFile(path)

	_ = server.Process.Kill()
	<-owner.Settled()
	for range 3 {
		switch e := <-events.C(); e.Kind {
		case watch.KindClaimed:
			fmt.Println("claim:", e.Source, filepath.Base(e.Result.Path))
		case watch.KindExited:
			fmt.Println("exit:", e.Exit)
		case watch.KindOutcome:
			fmt.Println("outcome:", e.Result.Outcome)
		}
	}
	// Output:
	// claim: explicit server.sock
	// exit: killed by SIGKILL
	// outcome: removed
}

// What is found out later can be claimed at any time, and a claim can be withdrawn until its file is being removed.
func ExampleOwner_Claim() {
	dir, err := os.MkdirTemp("", "watch")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer os.RemoveAll(dir)
	w, err := watch.New(watch.Options{})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer w.Close()
	server := exec.Command("sleep", "infinity")
	if err := server.Start(); err != nil {
		fmt.Println(err)
		return
	}
	defer func() { _ = server.Wait() }()
	p, err := pidfd.FromProcess(server.Process)
	if err != nil {
		fmt.Println(err)
		return
	}
	owner, err := w.Add(p, watch.OwnerOptions{})
	if err != nil {
		fmt.Println(err)
		return
	}

	for _, name := range []string{"a.sock", "keep.sock"} {
		leaveSockFile(filepath.Join(dir, name))
		claim, err := owner.Claim(filepath.Join(dir, name), watch.SourceNotify)
		if err != nil {
			fmt.Println(err)
			return
		}
		if name == "keep.sock" {
			fmt.Println("released:", claim.Release())
		}
	}

	_ = server.Process.Kill()
	<-owner.Settled()
	for _, r := range owner.Results() {
		fmt.Println(filepath.Base(r.Path), r.Outcome, r.Outcome == reap.OutcomeRemoved)
	}
	// Output:
	// released: true
	// a.sock removed true
}

// leaveSockFile makes a sock-file whose socket is dead.
func leaveSockFile(path string) {
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		fmt.Println(err)
		return
	}
	l.SetUnlinkOnClose(false)
	_ = l.Close()
}
