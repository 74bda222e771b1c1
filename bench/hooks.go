package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"

	"golang.org/x/sys/unix"

	"github.com/sockwatch/sockwatch/ebpf"
)

// ringSize has room for what is bound in a turn in which nobody reads.
const ringSize = 4 << 20

// holdHooks is `bench hooks HOOKS read|unread`: a set of hooks in the kernel until SIGINT, and a reader that waits for each event and
// makes nothing of it, or none.
func holdHooks(name string, read bool) error {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, unix.SIGTERM)
	defer stop()
	var h ebpf.Hooks
	if err := h.UnmarshalText([]byte(name)); err != nil {
		return err
	}
	t, err := ebpf.Open(ebpf.Options{Hooks: h, RingSize: ringSize})
	if err != nil {
		return err
	}
	ended := make(chan error, 1)
	go func() { ended <- readAll(t, read) }()
	fmt.Fprintf(os.Stderr, "%s %s\n", tracingBy, h)
	<-ctx.Done()
	lost := t.Drops()
	err = errors.Join(t.Detach(), <-ended, t.Close())
	if err == nil && lost > 0 {
		err = fmt.Errorf("%d events were lost", lost)
	}
	return err
}

// readAll reads until Detach.
func readAll(t *ebpf.Tracer, read bool) error {
	for read {
		if _, err := t.Read(); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
	}
	return nil
}
