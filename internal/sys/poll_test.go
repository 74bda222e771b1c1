package sys

import (
	"context"
	"errors"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// pipe makes a pipe in blocking mode that Go's poller knows nothing of.
func pipe(t *testing.T) (r, w int) {
	t.Helper()
	var fds [2]int
	if err := unix.Pipe2(fds[:], unix.O_CLOEXEC); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for _, fd := range fds {
			if err := Close(fd); err != nil {
				t.Error(err)
			}
		}
	})
	return fds[0], fds[1]
}

func fill(t *testing.T, w int) {
	t.Helper()
	if _, err := unix.Write(w, []byte("x")); err != nil {
		t.Fatal(err)
	}
}

func TestReadable(t *testing.T) {
	r, w := pipe(t)
	if yes, err := Readable(r); yes || err != nil {
		t.Errorf("an empty pipe: %v, %v", yes, err)
	}
	fill(t, w)
	if yes, err := Readable(r); !yes || err != nil {
		t.Errorf("a full pipe: %v, %v", yes, err)
	}
	closed, err := Duplicate(r)
	if err != nil {
		t.Fatal(err)
	}
	if err := Close(closed); err != nil {
		t.Fatal(err)
	}
	if _, err := Readable(closed); !errors.Is(err, unix.EBADF) {
		t.Errorf("a closed descriptor: %v", err)
	}
}

func TestWaitReadable(t *testing.T) {
	r, w := pipe(t)
	waited := make(chan error)
	go func() { waited <- WaitReadable(context.Background(), r) }()
	fill(t, w)
	if err := <-waited; err != nil {
		t.Error(err)
	}
	if err := WaitReadable(t.Context(), r); err != nil {
		t.Errorf("readable before: %v", err)
	}
	if flags, err := StatusFlags(r); flags&unix.O_NONBLOCK != 0 || err != nil {
		t.Errorf("status flags %#x, %v", flags, err)
	}
}

func TestWaitReadableContext(t *testing.T) {
	r, _ := pipe(t)
	ctx, cancel := context.WithCancel(t.Context())
	waited := make(chan error)
	for range 10 {
		go func() { waited <- WaitReadable(ctx, r) }()
	}
	cancel()
	for range 10 {
		if err := <-waited; !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	}
	expired, cancel := context.WithTimeout(t.Context(), time.Nanosecond)
	defer cancel()
	if err := WaitReadable(expired, r); !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
}
