package varlink

import (
	"context"
	"encoding/json"
	"errors"
	"reflect"
	"strings"
)

// Method serves a call. It replies through the Call, or returns nil without having done so, which is an empty reply, or
// an error. The context of a call with "more" ends when the peer is gone, when its connection is refused, and when the
// Server shuts down; that of another call only when the Server shuts down and has waited for Options.Patience.
type Method func(ctx context.Context, call *Call) error

// Call is a call that is being served. It is for the goroutine of its Method, and until that returns.
type Call struct {
	// More says that the peer expects any number of replies: ReplyContinues may be used.
	More bool
	// Oneway says that the peer expects no reply: what is replied is not sent.
	Oneway bool
	Peer   *Peer

	conn       *conn
	parameters json.RawMessage
	replied    bool
}

// ErrDropped is returned by replies to a peer that has left too much unread, or is gone. Its connection is closed.
var ErrDropped = errors.New("the connection was dropped")

// Decode puts the parameters into the struct that v points to, whose fields all have a json tag. It is an *Error with the
// name InvalidParameter, for the Method to return, unless they are what the struct says: see the package's comment.
func (c *Call) Decode(v any) error {
	b := c.parameters
	if b == nil {
		b = json.RawMessage("{}")
	}
	if e := decode(b, reflect.ValueOf(v).Elem(), ""); e != nil {
		return e
	}
	return nil
}

// Reply is the last reply. v marshals to an object; nil is an empty one. It does not wait for the peer.
func (c *Call) Reply(v any) error {
	if c.replied {
		return errors.New("varlink: a call was replied to twice")
	}
	c.replied = true
	return c.send(reply{Parameters: v})
}

// ReplyContinues is a reply that is not the last; ErrDropped is for the Method to return. It is an *Error with the name
// ExpectedMore when the peer does not expect more. It does not wait for the peer: one that does not keep up is dropped, see
// Drain.
func (c *Call) ReplyContinues(v any) error {
	if !c.More {
		return &Error{Name: ExpectedMore}
	}
	if c.replied {
		return errors.New("varlink: a call was replied to after its last reply")
	}
	return c.send(reply{Parameters: v, Continues: true})
}

// Drain waits until the peer has read most of what it was sent, or is gone, which is ErrDropped: for use between the
// replies that make up a long list, where nobody else waits.
func (c *Call) Drain() error { return c.conn.out.drain() }

func (c *Call) send(r reply) error {
	if c.Oneway {
		return nil
	}
	return c.conn.send(r)
}

// serve runs the method that was called, and replies with its error.
func (c *conn) serve(r request) {
	ctx := c.ctx
	if r.More {
		ctx = c.stream
		defer c.streaming.Add(-1)
	}
	call := &Call{More: r.More, Oneway: r.Oneway, Peer: c.peer, conn: c, parameters: r.Parameters}
	err := c.server.dispatch(ctx, r, call)
	switch {
	case call.replied, errors.Is(err, ErrDropped):
		return
	case r.More && c.fault() != nil:
		return // which is the answer
	case err == nil:
		_ = call.Reply(nil)
		return
	case ctx.Err() != nil && errors.Is(err, ctx.Err()):
		err = c.server.error(ShuttingDown, nil)
	}
	var e *Error
	if !errors.As(err, &e) {
		if c.server.o.Failed != nil {
			c.server.o.Failed(c.peer, r.Method, err)
		}
		e = c.server.error(Internal, nil)
	}
	_ = call.send(reply{Error: e.Name, Parameters: e.Parameters})
}

// dispatch finds the method and runs it.
func (s *Server) dispatch(ctx context.Context, r request, call *Call) error {
	if r.Upgrade {
		return InvalidParameterError("upgrade")
	}
	if r.More && r.Oneway {
		return InvalidParameterError("oneway")
	}
	dot := strings.LastIndexByte(r.Method, '.')
	i, ok := s.interfaces[r.Method[:max(dot, 0)]]
	if !ok {
		return &Error{InterfaceNotFound, map[string]string{"interface": r.Method[:max(dot, 0)]}}
	}
	method, ok := i.Methods[r.Method[dot+1:]]
	switch {
	case !ok:
		return &Error{MethodNotFound, map[string]string{"method": r.Method}}
	case method == nil:
		return &Error{MethodNotImplemented, map[string]string{"method": r.Method}}
	}
	return method(ctx, call)
}
