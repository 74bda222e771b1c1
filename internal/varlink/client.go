package varlink

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"net"
	"sync"
)

// Client calls the methods of a service, one at a time; its methods are for any number of goroutines.
type Client struct {
	conn *net.UnixConn

	mu     sync.Mutex // held for a call
	in     *bufio.Reader
	broken bool
}

// maxReply bounds what a service can have us keep.
const maxReply = 16 << 20

// ErrBroken is returned by calls after one that was not read to its end.
var ErrBroken = errors.New("varlink: the connection was given up by an earlier call")

// Dial connects to the socket at path. Calls must come from this process and under its present user and group: see the
// package's comment.
func Dial(ctx context.Context, path string) (*Client, error) {
	conn, err := (&net.Dialer{}).DialContext(ctx, "unix", path)
	if err != nil {
		return nil, err
	}
	return &Client{conn: conn.(*net.UnixConn), in: bufio.NewReader(conn)}, nil
}

// Close ends the connection, and with an error a call that still runs. Closing again is no error, nor after a call has.
func (c *Client) Close() error {
	if err := c.conn.Close(); !errors.Is(err, net.ErrClosed) {
		return err
	}
	return nil
}

// Call calls a method, whose name has its interface before it, and puts its reply into what out points to, unless that is
// nil. nil as in is no parameters. An error of the service is an *Error. When ctx ends the connection is closed and Call
// returns its cause.
func (c *Client) Call(ctx context.Context, method string, in, out any) error {
	for parameters, err := range c.replies(ctx, method, in, false) {
		if err != nil {
			return err
		}
		if out == nil {
			return nil
		}
		if err := json.Unmarshal(parameters, out); err != nil {
			return fmt.Errorf("reply to %s: %w", method, err)
		}
	}
	return nil
}

// More is Call for a method that replies any number of times. An error is the last of the sequence. Leaving the
// sequence before its end, or the end of ctx, closes the connection: there is no other way to end a call.
func (c *Client) More(ctx context.Context, method string, in any) iter.Seq2[json.RawMessage, error] {
	return c.replies(ctx, method, in, true)
}

func (c *Client) replies(ctx context.Context, method string, in any, more bool) iter.Seq2[json.RawMessage, error] {
	return func(yield func(json.RawMessage, error) bool) {
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.broken {
			yield(nil, ErrBroken)
			return
		}
		stop := context.AfterFunc(ctx, func() { _ = c.conn.Close() })
		c.broken = true // until the last reply is there
		defer func() {
			if !stop() || c.broken {
				c.broken = true
				_ = c.conn.Close()
			}
		}()
		fail := func(err error) {
			if ctx.Err() != nil {
				err = context.Cause(ctx)
			}
			yield(nil, fmt.Errorf("call %s: %w", method, err))
		}
		if in == nil {
			in = struct{}{}
		}
		parameters, err := json.Marshal(in)
		if err != nil {
			c.broken = false
			fail(err)
			return
		}
		message, err := json.Marshal(request{Method: method, Parameters: parameters, More: more})
		if err != nil {
			c.broken = false
			fail(err)
			return
		}
		_, writeErr := c.conn.Write(append(message, 0))
		for {
			// A service that refuses us may have closed before it was written to, and has said why.
			r, err := readReply(c.in)
			if err != nil {
				if writeErr != nil {
					err = writeErr
				}
				fail(err)
				return
			}
			c.broken = r.continues
			if r.err != nil {
				c.broken = writeErr != nil
				yield(nil, r.err)
				return
			}
			if r.continues && !more {
				fail(errors.New("more than one reply, which were not asked for"))
				return
			}
			if !yield(r.parameters, nil) || !r.continues {
				return
			}
		}
	}
}

type clientReply struct {
	parameters json.RawMessage
	continues  bool
	err        error // an *Error
}

// readReply reads a message. Keys that it does not know are for later versions of the protocol.
func readReply(in *bufio.Reader) (clientReply, error) {
	var message []byte
	for {
		piece, err := in.ReadSlice(0)
		if len(message)+len(piece) > maxReply {
			return clientReply{}, fmt.Errorf("a reply of more than %d bytes", maxReply)
		}
		message = append(message, piece...)
		if err == nil {
			break
		}
		if !errors.Is(err, bufio.ErrBufferFull) {
			if errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return clientReply{}, err
		}
	}
	var r struct {
		Parameters json.RawMessage `json:"parameters"`
		Continues  bool            `json:"continues"`
		Error      string          `json:"error"`
	}
	if err := json.Unmarshal(message[:len(message)-1], &r); err != nil {
		return clientReply{}, fmt.Errorf("a reply that is not one: %w", err)
	}
	if r.Parameters == nil || bytes.Equal(r.Parameters, []byte("null")) {
		r.Parameters = json.RawMessage("{}")
	}
	if r.Parameters[0] != '{' {
		return clientReply{}, errors.New("a reply whose parameters are no object")
	}
	if r.Error != "" {
		return clientReply{err: &Error{r.Error, r.Parameters}}, nil
	}
	return clientReply{parameters: r.Parameters, continues: r.Continues}, nil
}
