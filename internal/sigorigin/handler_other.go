//go:build linux && !amd64 && !arm64

package sigorigin

import (
	"os"
	"os/signal"

	"golang.org/x/sys/unix"
)

// Known tells whether it is known on this architecture who sent a signal.
const Known = false

// Catcher catches signals.
type Catcher struct {
	got   chan os.Signal
	child chan os.Signal // SIGCHLD: any number of them is one, and they crowd out no other signal
	done  chan struct{}
}

// Catch catches these signals from now on. Those that are ignored stay so.
func Catch(signals ...unix.Signal) (*Catcher, error) {
	c := &Catcher{got: make(chan os.Signal, 64), child: make(chan os.Signal, 1), done: make(chan struct{})}
	for _, sig := range signals {
		switch {
		case sig == unix.SIGCHLD:
			signal.Notify(c.child, sig)
		case !signal.Ignored(sig):
			signal.Notify(c.got, sig)
		}
	}
	return c, nil
}

// Next waits for signals, and gives what has come since the last time. After Stop it gives false.
func (c *Catcher) Next() ([]Caught, bool) {
	select {
	case sig := <-c.got:
		return []Caught{{Signal: sig.(unix.Signal)}}, true
	case <-c.child:
		return []Caught{{Signal: unix.SIGCHLD}}, true
	case <-c.done:
		return nil, false
	}
}

// Stop ends Next. Signals are caught still, and come to nothing.
func (c *Catcher) Stop() { close(c.done) }

// Release gives the signals back their default effect.
func (c *Catcher) Release() {
	signal.Stop(c.got)
	signal.Stop(c.child)
}
