// Package notifyd is the receiving side of the notify protocol: it takes reports of processes on what they have bound
// from a datagram socket, together with the kernel's word on who sent them.
//
// A goroutine does nothing but drain the socket, whose queue holds few datagrams, into bounded queues, one for each uid,
// from which one goroutine of the caller takes them by Next. Memory is bounded: when a queue is full, its uid's reports
// are lost, or senders are made to wait; see Options. What a report may do is the caller's to decide.
//
// A Receiver holds a descriptor and a goroutine until Close, and each Report may hold a descriptor until its own.
package notifyd

import (
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sockwatch/sockwatch/internal/proc"
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

	seq uint64 // its place among the datagrams that were received, the first is 1
}

// Sender is who sent a datagram.
type Sender struct {
	PID      int // in our pid namespace
	UID, GID uint32
	// Process is the receiver's to Close; nil when the sender was reaped by the time its report was read.
	Process *pidfd.Process
	Time    time.Time // when it was sent; zero where the kernel does not say
}

// Options say how a Receiver receives.
type Options struct {
	// Mode is the permissions of the socket that is made: who may write to it may report. 0 is 0600.
	Mode os.FileMode
	// Wait is for a socket whose senders all belong to one tree, so that nothing of theirs may be lost: when the sender's
	// queue is full, no more is read, until the socket's own queue is full too and send(2) blocks, or fails with EAGAIN,
	// for everybody. Without it a report of a user who has too many waiting is dropped: for a socket that the whole
	// machine may write to, where one who floods it must not stop the others.
	Wait bool
}

// Receiver receives reports. Next is for one goroutine, the other methods are for any.
type Receiver struct {
	conn  *net.UnixConn
	raw   syscall.RawConn // of conn
	path  string
	file  *reap.File // of the socket, if the Receiver made it
	dir   string     // of the socket alone, if the Receiver made it
	wait  bool
	holds uint64 // how many datagrams the socket's own queue can hold
	done  sync.WaitGroup

	// mu is also held around the reading of a datagram together with the counting of it, so that whoever holds mu finds
	// each one that was sent either in the socket or in what follows here.
	mu       sync.Mutex
	more     *sync.Cond // a report was queued, or the Receiver closed
	progress *sync.Cond // a report was taken, handled or dropped, the socket was found empty, or the Receiver closed
	queues   map[uint32][]Report
	turn     []uint32 // the uids with reports, the next one first
	dropped  uint64
	closed   bool
	received uint64 // datagrams that were read
	inHand   bool   // the last one of them is not yet queued
	given    uint64 // the seq of the report that Next gave out and that is being handled, or 0
	emptied  uint64 // how often the socket was found empty,
	empty    uint64 // and received when it last was
}

// queueLength bounds the reports of one uid that were not yet taken, and maxQueues the uids: each report may hold a descriptor.
const (
	queueLength = 256
	maxQueues   = 64
)

// Listen makes the socket at path. The path is removed by Close.
func Listen(path string, o Options) (*Receiver, error) {
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		return nil, fmt.Errorf("make the notify socket: %w", err)
	}
	mode := o.Mode
	if mode == 0 {
		mode = 0o600
	}
	file, err := reap.Open(path)
	if err == nil {
		file.Probe() // what was once seen alive can be removed by Close also where a file that never was is not judged
		err = os.Chmod(path, mode)
	}
	var r *Receiver
	if err == nil {
		r, err = Receive(conn, o)
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

// Receive is Listen for a socket that is there already, which it takes over on success. It must have been made in the
// network namespace that we are in.
func Receive(conn *net.UnixConn, o Options) (*Receiver, error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return nil, err
	}
	var optErr error
	if err := raw.Control(func(fd uintptr) { optErr = sys.AskForSender(int(fd)) }); err != nil || optErr != nil {
		return nil, errors.Join(err, optErr)
	}
	r := &Receiver{
		conn: conn, raw: raw, path: conn.LocalAddr().String(), wait: o.Wait, holds: socketHolds(),
		queues: map[uint32][]Report{},
	}
	r.more, r.progress = sync.NewCond(&r.mu), sync.NewCond(&r.mu)
	r.done.Go(r.drain)
	return r, nil
}

// socketHolds is how many datagrams the receive queue of a socket holds that was made in this network namespace: one more
// than net.unix.max_dgram_qlen, since the kernel refuses a datagram when the queue is longer than that (unix_recvq_full in
// net/unix/af_unix.c).
func socketHolds() uint64 {
	n, err := proc.FS("").Sysctl("net/unix/max_dgram_qlen")
	if err != nil || n < 0 {
		// 512 is what systemd sets. Too many costs CatchUp some time under a flood, and nothing else.
		n = 512
	}
	return uint64(n) + 1
}

// Path is where the socket is: the value for SOCKWATCH_NOTIFY.
func (r *Receiver) Path() string { return r.path }

// Next waits for the next report. The uids take turns. By calling it the caller says that the report before is handled; see
// Behind. It returns net.ErrClosed when the Receiver is closed.
func (r *Receiver) Next() (Report, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.given = 0
	r.progress.Broadcast()
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
	r.given = report.seq
	r.progress.Broadcast()
	return report, nil
}

// Dropped is how many reports were lost because too many of the same user were waiting. With Options.Wait it is 0.
func (r *Receiver) Dropped() uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.dropped
}

// Close ends receiving and removes the socket's path, and the directory that ListenTemp made. What was not taken is lost.
// What cannot be removed stays: ListenTemp clears it another time.
func (r *Receiver) Close() error {
	r.mu.Lock()
	if r.closed {
		r.mu.Unlock()
		return nil // a second call does nothing
	}
	r.closed = true
	r.more.Broadcast()
	r.progress.Broadcast()
	r.mu.Unlock()

	err := r.conn.Close()
	r.done.Wait()
	removeOwn(r.file)
	if r.dir != "" {
		removeDir(r.dir)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, queue := range r.queues {
		for _, report := range queue {
			report.Close()
		}
	}
	r.queues, r.turn = nil, nil
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
		var n, cn, flags int
		var err error
		// Not by ReadMsgUnix: a datagram would be neither in the socket nor counted until that has come back.
		closed := r.raw.Read(func(fd uintptr) (done bool) {
			r.mu.Lock()
			defer r.mu.Unlock()
			n, cn, flags, err = sys.ReceiveMessage(int(fd), buf, control)
			switch {
			case err == nil:
				r.received++
				r.inHand = true
			case errors.Is(err, unix.EAGAIN):
				r.emptied++
				r.empty = r.received
				r.progress.Broadcast()
				return false
			}
			return true
		})
		if closed != nil {
			return
		}
		if err != nil {
			continue // ENOBUFS, ENOMEM: of one datagram
		}
		r.queue(receive(buf[:n], control[:cn], flags))
	}
}

// queue keeps the report that was received last for Next, or drops it.
func (r *Receiver) queue(report Report) {
	r.mu.Lock()
	defer r.mu.Unlock()
	uid := report.Sender.UID
	for r.wait && !r.closed && !r.room(uid) {
		r.progress.Wait()
	}
	r.inHand = false
	if r.closed {
		report.Close()
		return
	}
	if !r.room(uid) {
		r.dropped++
		report.Close()
		r.progress.Broadcast()
		return
	}
	report.seq = r.received
	queue := r.queues[uid]
	if queue == nil {
		r.turn = append(r.turn, uid)
	}
	r.queues[uid] = append(queue, report)
	r.more.Signal()
}

// room tells whether one more report of the uid can be queued.
func (r *Receiver) room(uid uint32) bool {
	queue := r.queues[uid]
	return len(queue) < queueLength && (queue != nil || len(r.queues) < maxQueues)
}
