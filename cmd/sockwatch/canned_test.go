package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"

	"github.com/sockwatch/sockwatch/client"
	"github.com/sockwatch/sockwatch/internal/varlink"
)

// canned is a program of the scripts that stands for a daemon, for what a real one says only once in a while, or never: it
// makes the control socket in DIR, says so by a FIFO, which waits until that is read, answers N calls by FILE, ends, and leaves the
// socket's file. It prints each call.
//
//	canned DIR FIFO N FILE
//
// Each line of FILE is a method and the object that it replies with, or for an error "!", the error's name and its parameters. Of several
// lines for a method each is for one call, the last for all that follow; but for a call with "more" they are one reply each.
// Monitor waits for ever then, unless the last is an error, and a method without a line never answers.
func canned() {
	if err := answer(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "canned:", err)
		os.Exit(99)
	}
}

type cannedReply struct{ method, errorName, parameters string }

func answer(args []string) error {
	if len(args) != 4 {
		return fmt.Errorf("usage: canned DIR FIFO N FILE")
	}
	left, err := strconv.Atoi(args[2])
	if err != nil {
		return err
	}
	text, err := os.ReadFile(args[3])
	if err != nil {
		return err
	}
	replies := map[string][]cannedReply{}
	for line := range strings.Lines(string(text)) {
		method, rest, _ := strings.Cut(strings.TrimSpace(line), " ")
		r := cannedReply{method, "", rest}
		if name, isError := strings.CutPrefix(rest, "!"); isError {
			r.errorName, r.parameters, _ = strings.Cut(name, " ")
		}
		replies[method] = append(replies[method], r)
	}
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	var mu sync.Mutex
	take := func(method string, parameters json.RawMessage, more bool) []cannedReply {
		mu.Lock()
		defer mu.Unlock()
		fmt.Printf("%s %s\n", method, parameters)
		if left--; left == 0 {
			stop()
		}
		all := replies[method]
		if len(all) > 1 && !more {
			replies[method] = all[1:]
			return all[:1]
		}
		return all
	}
	methods := map[string]varlink.Method{}
	for _, name := range []string{"Watch", "Unwatch", "List", "Status", "History", "Monitor"} {
		methods[name] = func(ctx context.Context, call *varlink.Call) error {
			var parameters json.RawMessage
			if err := call.Decode(&parameters); err != nil {
				return err
			}
			all := take(name, parameters, call.More)
			for i, r := range all {
				send := call.Reply
				if call.More && (name == "Monitor" || i < len(all)-1) {
					send = call.ReplyContinues
				}
				if err := r.send(send); err != nil {
					return err
				}
			}
			if len(all) == 0 || name == "Monitor" {
				<-ctx.Done()
			}
			return ctx.Err()
		}
	}
	l, err := varlink.Listen(ctx, filepath.Join(args[0], client.ControlName), 0)
	if err != nil {
		return err
	}
	server := varlink.New(varlink.Options{ErrorInterface: client.Interface},
		varlink.Interface{Name: client.Interface, Description: client.Description, Methods: methods})
	if err := os.WriteFile(args[1], nil, 0); err != nil {
		return err
	}
	return server.Serve(ctx, l)
}

func (r cannedReply) send(reply func(any) error) error {
	if r.errorName != "" {
		return &varlink.Error{Name: r.errorName, Parameters: json.RawMessage(r.parameters)}
	}
	return reply(json.RawMessage(r.parameters))
}
