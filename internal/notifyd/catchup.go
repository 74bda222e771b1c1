package notifyd

import "github.com/sockwatch/sockwatch/internal/sys"

// Behind tells whether something that was sent by now (send(2) has returned) is not handled yet. It is handled when Next is
// called again after the report was returned, or when it was dropped. It costs one poll(2), or less. False once the Receiver
// is closed.
func (r *Receiver) Behind() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return !r.closed && (r.inHand || len(r.turn) > 0 || r.given != 0 || r.readable())
}

// CatchUp blocks until everything that was sent by now (send(2) has returned) is handled, as Behind has it, or the Receiver
// is closed. It comes to its end also while others go on sending. Not for the goroutine that calls Next.
func (r *Receiver) CatchUp() {
	r.mu.Lock()
	defer r.mu.Unlock()
	upTo, emptied := r.received, r.emptied
	if r.readable() {
		// How many there are in the socket the kernel does not tell, and what is sent from now on may keep it from ever
		// being empty. But it is first in, first out, and holds so many at the most.
		upTo += r.holds
	}
	for !r.closed {
		if r.emptied != emptied {
			upTo = min(upTo, r.empty)
		}
		if r.received >= upTo && r.oldest() > upTo {
			return
		}
		r.progress.Wait()
	}
}

// readable tells whether there is a datagram in the socket.
func (r *Receiver) readable() bool {
	readable := false
	err := r.raw.Control(func(fd uintptr) { readable, _ = sys.Readable(int(fd)) })
	return err == nil && readable
}

// oldest is the lowest seq that is received and not handled, or the one that comes next when there is none. Since uids take
// turns, what was handled last says nothing of what was handled.
func (r *Receiver) oldest() uint64 {
	oldest := r.received + 1
	if r.inHand {
		oldest = r.received
	}
	if r.given != 0 {
		oldest = min(oldest, r.given)
	}
	for _, queue := range r.queues {
		oldest = min(oldest, queue[0].seq)
	}
	return oldest
}
