package pidfd_test

import (
	"context"
	"fmt"
	"log"
	"os"
	"os/exec"

	"golang.org/x/sys/unix"

	"github.com/sockwatch/sockwatch/pidfd"
)

// A child is watched beside package os, which goes on to reap it.
func Example() {
	cmd := exec.Command("sleep", "1000")
	if err := cmd.Start(); err != nil {
		log.Fatal(err)
	}
	p, err := pidfd.FromProcess(cmd.Process)
	if err != nil {
		log.Fatal(err)
	}
	defer p.Close()

	if err := p.Signal(unix.SIGTERM); err != nil {
		log.Fatal(err)
	}
	if err := p.Wait(context.Background()); err != nil {
		log.Fatal(err)
	}
	fmt.Println(p.Exit())
	fmt.Println(cmd.Wait())
	// Output:
	// killed by SIGTERM
	// signal: terminated
}

// An identity is written down, and found again later, maybe by another run of the program.
func ExampleIdentity_Open() {
	p, err := pidfd.Open(os.Getpid())
	if err != nil {
		log.Fatal(err)
	}
	defer p.Close()
	id, err := p.Identity()
	if err != nil {
		log.Fatal(err)
	}
	text := id.String()

	id, err = pidfd.ParseIdentity(text)
	if err != nil {
		log.Fatal(err)
	}
	again, err := id.Open() // pidfd.ErrExited if the pid is another process now
	if err != nil {
		log.Fatal(err)
	}
	defer again.Close()
	fmt.Println(again.PID() == os.Getpid())
	// Output: true
}
