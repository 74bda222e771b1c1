package notifyd

import (
	"errors"
	"net"
	"strconv"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/sockwatch/sockwatch/internal/testutil"
)

// There is no moment between send(2) and the next call of Next at which a report is overlooked.
func TestBehind(t *testing.T) {
	r, path := listen(t)
	fd := connect(path)
	defer unix.Close(fd)
	if r.Behind() {
		t.Error("behind before anything was sent")
	}
	permit := make(chan struct{})
	go func() {
		for {
			report, err := r.Next()
			if err != nil {
				return
			}
			report.Close()
			<-permit
		}
	}()
	for i := range 10_000 {
		if err := send(fd, "NAME=x", 0); err != nil {
			t.Fatal(err)
		}
		for j := range 20 { // the datagram makes its way meanwhile
			if !r.Behind() {
				t.Fatalf("report %d: not behind at look %d", i, j)
			}
		}
		permit <- struct{}{}
		r.CatchUp()
		if r.Behind() {
			t.Fatalf("report %d: behind when it is handled", i)
		}
	}
}

// CatchUp comes to an end while others send without pause, and what was sent before it is handled then.
func TestCatchUp(t *testing.T) {
	for name, o := range map[string]Options{"wait": {Wait: true}, "drop": {}} {
		t.Run(name, func(t *testing.T) {
			r := listenWith(t, o)
			var mine atomic.Int64
			done := make(chan struct{})
			go func() {
				defer close(done)
				for {
					report, err := r.Next()
					if err != nil {
						return
					}
					if report.Name != "" {
						mine.Add(1)
					}
					report.Close()
				}
			}()
			for range 2 {
				testutil.Start(t, testutil.Command(t, "flood", r.Path(), "0")).Expect("sending")
			}
			fd := connect(r.Path())
			defer unix.Close(fd)
			var sent int64
			for i := range 100 {
				for range i % 7 {
					if err := send(fd, "NAME="+strconv.Itoa(i), 0); err != nil {
						t.Fatal(err)
					}
					sent++
				}
				r.CatchUp()
				if got, dropped := mine.Load(), int64(r.Dropped()); got > sent || got+dropped < sent || (o.Wait && got != sent) {
					t.Fatalf("%d are handled and %d dropped when %d were sent", got, dropped, sent)
				}
			}
			if err := r.Close(); err != nil {
				t.Error(err)
			}
			<-done
		})
	}
}

// Uids take turns, so a report that came later may be handled earlier.
func TestCatchUpWaitsForEveryQueue(t *testing.T) {
	r, _ := listen(t)
	r.mu.Lock()
	r.received = 3
	r.queues = map[uint32][]Report{1: {{seq: 1}, {seq: 3}}, 2: {{seq: 2}}}
	r.turn = []uint32{2, 1}
	r.mu.Unlock()
	for _, want := range []uint64{1, 1, 3} { // 2 is in hand and 1 is queued, 1 is in hand, 3 is in hand
		next(t, r)
		r.mu.Lock()
		got := r.oldest()
		r.mu.Unlock()
		if got != want {
			t.Errorf("the oldest is %d, want %d", got, want)
		}
	}
}

func TestSocketHolds(t *testing.T) {
	path := testutil.TempDir(t) + "/s"
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	// Several senders: one alone may be stopped by its send buffer.
	want := socketHolds()
	for got := uint64(0); ; got++ {
		fd := connect(path)
		defer unix.Close(fd)
		if err := send(fd, "x", unix.MSG_DONTWAIT); errors.Is(err, unix.EAGAIN) && got == want {
			return
		} else if err != nil {
			t.Fatalf("it holds %d, not %d: %v", got, want, err)
		}
	}
}
