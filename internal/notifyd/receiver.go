// Package notifyd is the receiving side of the notify protocol: it takes reports of processes on what they have bound
// from a datagram socket, together with the kernel's word on who sent them.
//
// A goroutine does nothing but drain the socket, whose queue holds few datagrams, into bounded queues, one for each uid:
// who floods it loses reports of its own, and its memory is bounded. What a report may do is the caller's to decide.
package notifyd

import (
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"time"

	"github.com/sockwatch/sockwatch/internal/sys"
	"github.com/sockwatch/sockwatch/pidfd"
	"github.com/sockwatch/sockwatch/reap"
)

// Report is a Message and its sender, on the kernel's word.
type Report struct {
	Message
	Sender Sender
	// Err is why the datagram says nothing; then Message is empty.
	Err error
}

// Sender is who sent a datagram.
type Sender struct {
	PID      int // in our pid namespace
	UID, GID uint32
	// Process is the receiver's to Close; nil when the sender was reaped by the time its report was read.
	Process *pidfd.Process
	Time    time.Time // when it was sent; zero where the kernel does not say
}

// Receiver receives reports.
type Receiver struct {
	conn *net.UnixConn
	file *reap.File // of the socket, if the Receiver made it
	done sync.WaitGroup

	mu      sync.Mutex
	more    *sync.Cond // a report was queued, or the Receiver closed
	queues  map[uint32][]Report
	turn    []uint32 // the uids with reports, the next one first
	dropped uint64
	closed  bool
}

// queueLength bounds the reports of one uid that were not yet taken, and maxQueues the uids: each report may hold a descriptor.
const (
	queueLength = 256
	maxQueues   = 64
)

// Listen makes the socket at path, with the given permissions: who may write to it may report. The path is
// removed by Close.
func Listen(path string, mode os.FileMode) (*Receiver, error) {
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		return nil, fmt.Errorf("make the notify socket: %w", err)
	}
	file, err := reap.Open(path)
	if err == nil {
		err = os.Chmod(path, mode)
	}
	var r *Receiver
	if err == nil {
		r, err = Receive(conn)
	}
	if err != nil {
		_ = conn.Close()
		removeOwn(file)
		return nil, fmt.Errorf("make the notify socket: %w", err)
	}
	r.file = file
	return r, nil
}

// removeOwn removes the file of a socket of ours that is closed.
func removeOwn(file *reap.File) {
	if file == nil {
		return
	}
	file.Remove(reap.RemoveOptions{})
	_ = file.Close()
}

// Receive is Listen for a socket that is there already, which it takes over on success.
func Receive(conn *net.UnixConn) (*Receiver, error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return nil, err
	}
	var optErr error
	if err := raw.Control(func(fd uintptr) { optErr = sys.AskForSender(int(fd)) }); err != nil || optErr != nil {
		return nil, errors.Join(err, optErr)
	}
	r := &Receiver{conn: conn, queues: map[uint32][]Report{}}
	r.more = sync.NewCond(&r.mu)
	r.done.Go(r.drain)
	return r, nil
}

// Next waits for the next report. The uids take turns. It returns net.ErrClosed when the Receiver is closed.
func (r *Receiver) Next() (Report, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for len(r.turn) == 0 && !r.closed {
		r.more.Wait()
	}
	if r.closed {
		return Report{}, net.ErrClosed
	}
	uid := r.turn[0]
	r.turn = r.turn[1:]
	queue := r.queues[uid]
	report := queue[0]
	if queue = queue[1:]; len(queue) > 0 {
		r.queues[uid] = queue
		r.turn = append(r.turn, uid)
	} else {
		delete(r.queues, uid)
	}
	return report, nil
}

// Dropped is how many reports were lost because too many of the same user were waiting.
func (r *Receiver) Dropped() uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.dropped
}

// Close ends receiving and removes the socket's path. What was not taken is lost.
func (r *Receiver) Close() error {
	err := r.conn.Close()
	r.done.Wait()
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return nil // a second call does nothing
	}
	r.closed = true
	removeOwn(r.file)
	for _, queue := range r.queues {
		for _, report := range queue {
			report.Close()
		}
	}
	r.queues, r.turn = nil, nil
	r.more.Broadcast()
	return err
}

// Close gives up the sender's descriptor.
func (r Report) Close() {
	if r.Sender.Process != nil {
		_ = r.Sender.Process.Close()
	}
}

// drain reads datagrams until the socket is closed.
func (r *Receiver) drain() {
	buf, control := make([]byte, maxMessage+1), make([]byte, sys.SenderSpace)
	for {
		n, cn, flags, _, err := r.conn.ReadMsgUnix(buf, control)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			continue // ENOBUFS, ENOMEM: of one datagram
		}
		r.queue(receive(buf[:n], control[:cn], flags))
	}
}

// queue keeps a report for Next, or drops it.
func (r *Receiver) queue(report Report) {
	r.mu.Lock()
	defer r.mu.Unlock()
	uid := report.Sender.UID
	queue := r.queues[uid]
	if len(queue) >= queueLength || (queue == nil && len(r.queues) >= maxQueues) {
		r.dropped++
		report.Close()
		return
	}
	if queue == nil {
		r.turn = append(r.turn, uid)
	}
	r.queues[uid] = append(queue, report)
	r.more.Signal()
}
