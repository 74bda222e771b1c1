package notify

import (
	"context"
	"net"
	"sync"
)

// Listen is net.ListenConfig.Listen that reports the sock-file it makes, and reports again when the listener is closed.
// A report that fails is no error of Listen: see Bound for why there could be one.
func Listen(ctx context.Context, network, address string) (net.Listener, error) {
	var config net.ListenConfig
	l, err := config.Listen(ctx, network, address)
	if err != nil || !Enabled() || !isPath(l.Addr()) {
		return l, err
	}
	if path, err := absolute(address); err == nil { // now: the working directory can change before Close
		_ = Bound(path)
		l = &listener{Listener: l, path: path}
	}
	return l, nil
}

// isPath tells whether a listener has made a sock-file.
func isPath(addr net.Addr) bool {
	unix, ok := addr.(*net.UnixAddr)
	return ok && unix.Name != "" && unix.Name[0] != '@' && unix.Name[0] != 0
}

// listener reports when it is closed, which removes its sock-file.
type listener struct {
	net.Listener
	path string
	once sync.Once
}

func (l *listener) Close() error {
	err := l.Listener.Close()
	l.once.Do(func() { _ = Closed(l.path) })
	return err
}
