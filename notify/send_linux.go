package notify

import (
	"net"
	"time"
)

const supported = true

// patience is how long a full receive queue is waited for.
const patience = 100 * time.Millisecond

// send sends one datagram. The kernel adds who we are.
func send(address, message string) error {
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: address, Net: "unixgram"})
	if err != nil {
		return err
	}
	defer conn.Close()
	// The socket does not block: this is for how long the poller waits for room in the queue.
	if err := conn.SetWriteDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	_, err = conn.Write([]byte(message))
	return err
}
