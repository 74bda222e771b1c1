// Victim is a small server that exists to be killed: it binds the sock-file named
// by its argument, listens, says so in one line, and answers nobody.
package main

import (
	"fmt"
	"net"
	"os"
)

func main() {
	// It does not end by itself unless something is wrong.
	fmt.Fprintln(os.Stderr, "victim:", serve(os.Args[1:]))
	os.Exit(1)
}

func serve(args []string) error {
	if len(args) != 1 {
		return fmt.Errorf("want the path of one sock-file, got %d arguments", len(args))
	}
	listener, err := net.Listen("unix", args[0])
	if err != nil {
		return err
	}
	fmt.Printf("victim %d listens on %s\n", os.Getpid(), args[0])
	for {
		conn, err := listener.Accept()
		if err != nil {
			return err
		}
		conn.Close()
	}
}
