package notify_test

import (
	"context"
	"fmt"
	"log"
	"net"
	"os"
	"path/filepath"

	"github.com/sockwatch/sockwatch/notify"
)

// A server reports the sock-file that it makes. The program is the same without a watcher.
func ExampleListen() {
	dir, err := os.MkdirTemp("", "sw")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)

	l, err := notify.Listen(context.Background(), "unix", filepath.Join(dir, "app.sock"))
	if err != nil {
		log.Fatal(err)
	}
	defer l.Close()
	fmt.Println(l.Addr().Network())
	// Output: unix
}

// A socket that somebody else has made is reported by its path. Here the example itself is the watcher.
func ExampleBound() {
	dir, err := os.MkdirTemp("", "sw")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	watcher, err := net.ListenPacket("unixgram", filepath.Join(dir, "notify"))
	if err != nil {
		log.Fatal(err)
	}
	defer watcher.Close()
	os.Setenv(notify.Variable, watcher.LocalAddr().String())
	defer os.Unsetenv(notify.Variable)

	if err := notify.Bound("/run/app.sock"); err != nil {
		log.Print(err) // the program goes on
	}

	message := make([]byte, notify.MaxMessage)
	n, _, err := watcher.ReadFrom(message)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Print(string(message[:n]))
	// Output: BIND=/run/app.sock
}
