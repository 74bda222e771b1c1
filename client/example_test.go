package client_test

import (
	"context"
	"errors"
	"fmt"
	"log"

	"github.com/sockwatch/sockwatch/client"
	"github.com/sockwatch/sockwatch/pidfd"
)

// A supervisor has a server watched: its sock-file goes with it, also when the supervisor has ended before.
func ExampleClient_Watch() {
	register := func(ctx context.Context, server *pidfd.Process, path string) error {
		c, err := client.Dial(ctx, "")
		if errors.Is(err, client.ErrNoDaemon) {
			return nil // it works without
		}
		if err != nil {
			return err
		}
		defer c.Close()
		id, err := server.Identity()
		if err != nil {
			return err
		}
		_, err = c.Watch(ctx, client.WatchRequest{Process: id.String(), Paths: []string{path}})
		return err
	}
	_ = register
}

func ExampleClient_Monitor() {
	ctx := context.Background()
	c, err := client.Dial(ctx, "")
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	for m, err := range c.Monitor(ctx) {
		if err != nil {
			log.Fatal(err)
		}
		if m.Event.Type == "outcome" {
			fmt.Println(m.Event.Outcome, m.Event.Path.Path, m.Event.Process)
		}
	}
}
