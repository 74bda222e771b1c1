package varlink

import (
	"errors"
	"io"
	"sync"
)

// outbox holds what was replied until the peer has read it.
type outbox struct {
	w     io.Writer
	limit int
	user  *unread // of all outboxes of the peer's user, this one included

	mu       sync.Mutex
	changed  *sync.Cond
	queue    [][]byte
	unread   int  // bytes in queue, and of what is being written
	finished bool // nothing is added any more
	broken   bool // the peer is gone
}

var (
	errUnread       = errors.New("too much is unread")
	errUnreadOfUser = errors.New("too much is unread on all connections of the user")
)

func newOutbox(w io.Writer, limit int, user *unread) *outbox {
	o := &outbox{w: w, limit: limit, user: user}
	o.changed = sync.NewCond(&o.mu)
	return o
}

// add queues a message and does not wait. A message may be longer than a limit, but only when there is room left before it.
func (o *outbox) add(message []byte) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	var err error
	switch {
	case o.broken:
		return ErrDropped
	case o.unread >= o.limit:
		err = errUnread
	case !o.user.add(len(message)):
		err = errUnreadOfUser
	}
	if err != nil {
		o.broken = true
		o.changed.Broadcast()
		return err
	}
	o.queue = append(o.queue, message)
	o.unread += len(message)
	o.changed.Broadcast()
	return nil
}

// drain waits until at least half of the room is free.
func (o *outbox) drain() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	for o.unread > o.limit/2 && !o.broken {
		o.changed.Wait()
	}
	if o.broken {
		return ErrDropped
	}
	return nil
}

// finish has run return when everything is written.
func (o *outbox) finish() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.finished = true
	o.changed.Broadcast()
}

// run writes until finish is called, or the peer is gone. What is left then is nobody's, and nothing can be added.
func (o *outbox) run() {
	const piece = 32 << 10 // so that a long message is seen to get less
	o.mu.Lock()
	defer o.mu.Unlock()
	defer func() {
		o.broken = true
		o.user.sub(o.unread)
		o.queue, o.unread = nil, 0
	}()
	for {
		for len(o.queue) == 0 && !o.finished && !o.broken {
			o.changed.Wait()
		}
		if len(o.queue) == 0 || o.broken {
			return
		}
		message := o.queue[0]
		o.queue[0] = nil
		o.queue = o.queue[1:]
		for len(message) > 0 && !o.broken {
			n := min(piece, len(message))
			o.mu.Unlock()
			_, err := o.w.Write(message[:n])
			o.mu.Lock()
			message = message[n:]
			o.unread -= n
			o.user.sub(n)
			o.broken = o.broken || err != nil
			o.changed.Broadcast()
		}
	}
}
