package pidfd

import (
	"context"
	"os"

	"github.com/sockwatch/sockwatch/internal/sys"
)

// Wait waits until the process has come to its end, as Exited tells it. It does not reap a child.
//
// It costs a goroutine and no thread, and one more descriptor for a while: however many goroutines wait, one of them does
// so in the kernel. The error wraps that of ctx, or os.ErrClosed when the Process was closed.
func (p *Process) Wait(ctx context.Context) error {
	// An exit that has happened counts also when ctx is done.
	if exited, err := p.Exited(); exited || err != nil {
		return err
	}
	if err := p.wait(ctx); err != nil {
		return explain("wait for", p.pid, err)
	}
	return nil
}

func (p *Process) wait(ctx context.Context) error {
	w := p.getWaiters()
	select {
	case <-w.exited:
		return nil
	case <-w.open.Done():
		return os.ErrClosed
	case <-ctx.Done():
		return ctx.Err()
	case w.turn <- struct{}{}:
	}
	defer func() { <-w.turn }()

	inKernel, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := context.AfterFunc(w.open, cancel)
	defer stop()
	err := p.use(func(fd int) error { return sys.WaitReadable(inKernel, fd) })
	switch {
	case err == nil:
		w.tell()
	case w.open.Err() != nil:
		return os.ErrClosed
	}
	return err
}

// waiters lets any number of goroutines wait for one process while one of them, whose turn it is, waits in the kernel.
type waiters struct {
	turn   chan struct{}   // full while somebody has the turn
	exited chan struct{}   // closed, by who has the turn, once the process has ended
	open   context.Context // done with Close
	close  context.CancelFunc
}

// closedWaiters stand in for the waiters of a Process that is closed before anybody waited.
var closedWaiters = func() *waiters {
	w := newWaiters()
	w.close()
	return w
}()

func newWaiters() *waiters {
	w := &waiters{turn: make(chan struct{}, 1), exited: make(chan struct{})}
	w.open, w.close = context.WithCancel(context.Background())
	return w
}

func (w *waiters) tell() {
	select {
	case <-w.exited: // by who had the turn before
	default:
		close(w.exited)
	}
}

func (p *Process) getWaiters() *waiters {
	p.waitersMu.Lock()
	defer p.waitersMu.Unlock()
	if p.waiters == nil {
		p.waiters = newWaiters()
	}
	return p.waiters
}

// endWaits calls everybody back who waits, and will not let anybody begin.
func (p *Process) endWaits() {
	p.waitersMu.Lock()
	defer p.waitersMu.Unlock()
	if p.waiters == nil {
		p.waiters = closedWaiters
	}
	p.waiters.close()
}
