package spawn_test

import (
	"bufio"
	"context"
	"fmt"
	"log"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sockwatch/sockwatch/pidfd"
	"github.com/sockwatch/sockwatch/reap"
	"github.com/sockwatch/sockwatch/spawn"
	"github.com/sockwatch/sockwatch/watch"
)

// serverEnv makes this test binary a server that binds the path in it and does not heed SIGTERM.
const serverEnv = "SOCKWATCH_EXAMPLE_SERVER"

func init() {
	path, ok := os.LookupEnv(serverEnv)
	if !ok {
		return
	}
	signal.Ignore(unix.SIGTERM)
	l, err := net.Listen("unix", path)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("listening")
	_, _ = l.Accept() // nobody connects
}

// server gives the command of such a server, and a function that waits until it listens.
func server(path string) (cmd *exec.Cmd, listening func()) {
	cmd = exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), serverEnv+"="+path)
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		log.Fatal(err)
	}
	return cmd, func() {
		if _, err := bufio.NewReader(stdout).ReadString('\n'); err != nil {
			log.Fatal(err)
		}
	}
}

// A child that does not heed SIGTERM is killed, and what it bound in its bindspace is gone.
func ExampleChild_HardKill() {
	dir, err := os.MkdirTemp("", "example")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	w, err := watch.New(watch.Options{})
	if err != nil {
		log.Fatal(err)
	}
	defer w.Close()

	cmd, listening := server(filepath.Join(dir, "api.sock"))
	child, err := spawn.Start(context.Background(), w, cmd, watch.OwnerOptions{Bindspaces: []string{dir}})
	if err != nil {
		log.Fatal(err)
	}
	listening()

	r := child.HardKill(context.Background(), spawn.KillOptions{TerminateAfter: 50 * time.Millisecond})
	fmt.Println(r.Exit, r.Err)
	for _, f := range r.Files {
		fmt.Println(filepath.Base(f.Path), f.Outcome)
	}
	// Output:
	// killed by SIGKILL <nil>
	// api.sock removed
}

// Any process that one may signal can be killed so, without a watcher. Nobody says here what it has bound: HardKill looks
// before it sends a signal.
func ExampleHardKill() {
	dir, err := os.MkdirTemp("", "example")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	cmd, listening := server(filepath.Join(dir, "api.sock"))
	if err := cmd.Start(); err != nil {
		log.Fatal(err)
	}
	listening()

	p, err := pidfd.FromProcess(cmd.Process) // or pidfd.Open(pid)
	if err != nil {
		log.Fatal(err)
	}
	defer p.Close()
	r := spawn.HardKill(context.Background(), p, spawn.KillOptions{TerminateAfter: 50 * time.Millisecond}, reap.Target{})
	fmt.Println(r.Exit, r.Err)
	for _, f := range r.Files {
		if f.Outcome == reap.OutcomeRemoved {
			fmt.Println(filepath.Base(f.Path), f.Outcome)
		}
	}
	fmt.Println(cmd.Wait()) // the child stays ours to reap
	// Output:
	// killed by SIGKILL <nil>
	// api.sock removed
	// signal: killed
}

// However a child ends, Wait returns when its sock-files are gone.
func ExampleStart() {
	dir, err := os.MkdirTemp("", "example")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	w, err := watch.New(watch.Options{})
	if err != nil {
		log.Fatal(err)
	}
	defer w.Close()

	path := filepath.Join(dir, "api.sock") // need not exist yet
	cmd, listening := server(path)
	child, err := spawn.Start(context.Background(), w, cmd, watch.OwnerOptions{Paths: []string{path}})
	if err != nil {
		log.Fatal(err)
	}
	listening()

	if err := unix.Kill(child.PID(), unix.SIGKILL); err != nil { // somebody else's doing
		log.Fatal(err)
	}
	fmt.Println(child.Wait())
	again, err := net.Listen("unix", path)
	if err != nil {
		log.Fatal(err)
	}
	again.Close()
	fmt.Println("the path is free")
	// Output:
	// signal: killed
	// the path is free
}
