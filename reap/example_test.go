package reap_test

import (
	"fmt"
	"log"
	"net"
	"os"
	"path/filepath"

	"github.com/sockwatch/sockwatch/reap"
)

// killedServer leaves a sock-file behind, as a server does that is killed.
func killedServer(path string) {
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path})
	if err != nil {
		log.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	l.Close()
}

// A File is the inode that it was opened for. It outlasts the process that bound it, and never turns into its
// successor's.
func Example() {
	dir, err := os.MkdirTemp("", "sw")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "server.sock")
	killedServer(path)

	f, err := reap.Open(path)
	if err != nil {
		log.Fatal(err)
	}
	defer f.Close()
	fmt.Println(f.Remove(reap.RemoveOptions{}).Outcome)

	// Its successor is safe.
	l, err := net.Listen("unix", path)
	if err != nil {
		log.Fatal(err)
	}
	defer l.Close()
	fmt.Println(f.Remove(reap.RemoveOptions{}).Outcome)
	// Output:
	// removed
	// replaced
}

func ExampleFile_Probe() {
	dir, err := os.MkdirTemp("", "sw")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "server.sock")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path})
	if err != nil {
		log.Fatal(err)
	}
	l.SetUnlinkOnClose(false)

	f, err := reap.Open(path)
	if err != nil {
		log.Fatal(err)
	}
	defer f.Close()
	state, _ := f.Probe()
	fmt.Println(state)
	l.Close()
	state, _ = f.Probe()
	fmt.Println(state)
	// Output:
	// alive
	// dead
}

// A dry run decides as a removal would.
func ExampleFile_Remove_dryRun() {
	dir, err := os.MkdirTemp("", "sw")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "server.sock")
	killedServer(path)

	f, err := reap.Open(path)
	if err != nil {
		log.Fatal(err)
	}
	defer f.Close()
	r := f.Remove(reap.RemoveOptions{DryRun: true})
	_, err = os.Lstat(path)
	fmt.Println(r.Outcome, r.DryRun, err)
	// Output: removed true <nil>
}

// Commit is the last moment at which a removal can be called off.
func ExampleRemoveOptions_commit() {
	dir, err := os.MkdirTemp("", "sw")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "server.sock")
	killedServer(path)

	f, err := reap.Open(path)
	if err != nil {
		log.Fatal(err)
	}
	defer f.Close()
	r := f.Remove(reap.RemoveOptions{Commit: func() bool { return false }})
	fmt.Println(r.Outcome, r.Err)
	// Output: unknown aborted before removal
}
