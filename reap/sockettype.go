package reap

import (
	"errors"
	"slices"

	"github.com/sockwatch/sockwatch/internal/sockdiag"
)

// SocketTypes tells, for each of the files, the type of the socket that is bound to it: SOCK_STREAM, SOCK_DGRAM or
// SOCK_SEQPACKET of socket(2). It is 0 where the kernel's table does not show one: the file is dead, the socket belongs to
// another network namespace, or the kernel has no such table (sock_diag(7)). A socket that the table shows need not be
// there any more: whether a file is alive, Probe tells.
func SocketTypes(files []*File) ([]int, error) {
	types := make([]int, len(files))
	conn, err := sockdiag.Dial()
	if errors.Is(err, errors.ErrUnsupported) {
		return types, nil
	}
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	wanted := entriesOf(files)
	for range tableReadings {
		for socket, err := range conn.Dump() {
			if errors.Is(err, sockdiag.ErrInterrupted) {
				break
			}
			if err != nil {
				return nil, err
			}
			wanted.find(socket, func(i int) { types[i] = socket.Type }) // an accepted one has that of its listener
		}
		if !slices.Contains(types, 0) {
			break
		}
	}
	return types, nil
}
