package notify

import (
	"context"
	"net"
	"sync"
)

// Listen is net.ListenConfig.Listen that reports the sock-file it makes, and reports again when the listener is closed. A
// report that fails is no error of Listen: for who wants to know there is Bound.
//
// The listener of a sock-file has the methods of *net.UnixListener, whether somebody watches or not, but is not of that type.
func Listen(ctx context.Context, network, address string) (net.Listener, error) {
	var config net.ListenConfig
	l, err := config.Listen(ctx, network, address)
	if err != nil {
		return nil, err
	}
	unix, ok := l.(*net.UnixListener)
	if !ok || !isPath(address) {
		return l, nil
	}
	path, err := absolute(address) // now: the working directory can change before Close
	if err != nil {
		return l, nil //nolint:nilerr // it listens, and nothing that could be reported names the file
	}
	_ = Bound(path)
	return &listener{UnixListener: unix, path: path}, nil
}

// ListenPacket is net.ListenConfig.ListenPacket that reports the sock-file it makes, of a unixgram socket. Closing such a
// connection removes no file, so nothing is reported then: the file stays the watcher's to remove.
func ListenPacket(ctx context.Context, network, address string) (net.PacketConn, error) {
	var config net.ListenConfig
	conn, err := config.ListenPacket(ctx, network, address)
	if err != nil {
		return nil, err
	}
	if _, ok := conn.(*net.UnixConn); ok && isPath(address) {
		_ = Bound(address)
	}
	return conn, nil
}

// isPath tells whether a sock-file is made for an address: not in the abstract namespace, nor where the kernel chooses a name.
func isPath(address string) bool { return address != "" && address[0] != '@' && address[0] != 0 }

// listener reports when it is closed, which removes its sock-file.
type listener struct {
	*net.UnixListener
	path string
	once sync.Once
}

// Close closes the listener, and then reports. Before, a process that dies between the two would leave its file for good.
func (l *listener) Close() error {
	err := l.UnixListener.Close()
	l.once.Do(func() { _ = Closed(l.path) })
	return err
}
