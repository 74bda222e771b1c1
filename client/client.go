package client

import (
	"context"
	"encoding/json"
	"fmt"
	"iter"
	"unicode/utf8"

	"github.com/sockwatch/sockwatch/internal/varlink"
)

// Client is a connection to the daemon. Its methods are for any number of goroutines, and its calls wait for each other.
//
// All fail with what errors.go lists: with ErrDisconnected when the daemon ends, ErrShuttingDown when it has said so, and the cause of
// ctx when that ends, after which the Client is of no more use.
type Client struct {
	v *varlink.Client
}

// Dial connects to the daemon whose control socket is at addr, a path. "" is what [ControlSocket] finds.
//
// ErrNoDaemon when there is no such socket, or nobody listens on it; ErrNotPermitted when this user may not connect.
func Dial(ctx context.Context, addr string) (*Client, error) {
	if addr == "" {
		var err error
		if addr, err = ControlSocket(); err != nil {
			return nil, err
		}
	}
	v, err := varlink.Dial(ctx, addr)
	if err != nil {
		return nil, explainDial(addr, err)
	}
	return &Client{v}, nil
}

// Close ends the connection, and with ErrDisconnected a call that still runs. Closing again is no error.
func (c *Client) Close() error { return c.v.Close() }

// Watch has the daemon watch a process, for as long as it lives and whatever becomes of us. What the process holds now is claimed,
// and what the request names, whether it exists yet or not. To watch again adds paths; Name, Bindspaces and Conventions are as they
// were the first time, or left out.
//
// ErrNoSuchProcess, ErrNotPermitted for a process or file of another user, ErrInvalid, ErrLimit.
func (c *Client) Watch(ctx context.Context, r WatchRequest) (Watched, error) {
	var w Watched
	for _, texts := range [][]string{{r.Process, r.Name}, r.Paths, r.Bindspaces, r.Conventions} {
		if err := checkText(texts...); err != nil {
			return w, err
		}
	}
	return w, c.call(ctx, "Watch", r, &w)
}

// Unwatch ends the watching of the Owner with that ID. Its files are kept.
//
// ErrNoSuchOwner, ErrNotPermitted.
func (c *Client) Unwatch(ctx context.Context, id string) error {
	return c.call(ctx, "Unwatch", ownerRequest{id}, nil)
}

// Claim claims one more path, absolute and as the process sees it, for the Owner with that ID.
//
// ErrNoSuchOwner, ErrNotPermitted, ErrInvalid, ErrLimit.
func (c *Client) Claim(ctx context.Context, id, path string) error {
	if err := checkText(path); err != nil {
		return err
	}
	return c.call(ctx, "Claim", claimRequest{id, path}, nil)
}

// Release withdraws a claim of the Owner with that ID. It returns false when the removal of the file has begun, which is
// then not stopped.
//
// ErrNoSuchOwner, ErrNoSuchClaim, ErrNotPermitted.
func (c *Client) Release(ctx context.Context, id, path string) (released bool, err error) {
	if err := checkText(path); err != nil {
		return false, err
	}
	var reply struct {
		Released bool `json:"released"`
	}
	err = c.call(ctx, "Release", claimRequest{id, path}, &reply)
	return reply.Released, err
}

// List returns who is watched: for root everybody, for others the own processes.
func (c *Client) List(ctx context.Context) ([]Owner, error) {
	var all []Owner
	for b, err := range c.v.More(ctx, Interface+".List", nil) {
		if err != nil {
			return nil, explainCall(err)
		}
		var reply struct {
			Owners []Owner `json:"owners"`
		}
		if err := json.Unmarshal(b, &reply); err != nil {
			return nil, fmt.Errorf("reply to List: %w", err)
		}
		all = append(all, reply.Owners...)
	}
	return all, nil
}

// Status returns the state of the daemon.
func (c *Client) Status(ctx context.Context) (Status, error) {
	var s Status
	return s, c.call(ctx, "Status", nil, &s)
}

// History returns the latest outcomes, the oldest first: those of a path, or with "" all. Of older ones the daemon keeps
// nothing.
func (c *Client) History(ctx context.Context, path string) ([]Event, error) {
	if err := checkText(path); err != nil {
		return nil, err
	}
	var reply struct {
		Events []Event `json:"events"`
	}
	err := c.call(ctx, "History", historyRequest{path}, &reply)
	return reply.Events, err
}

// Monitored is a message of Monitor.
type Monitored struct {
	// Event has no Type where the message is not about one: that the stream has begun, or that Dropped has grown.
	Event Event `json:"event"`
	// Dropped is how many Events there were, since Monitor was called, that we were too slow for.
	Dropped uint64 `json:"dropped"`
}

// Monitor streams what happens from now on, until ctx ends or the daemon does. An error is the last of the sequence.
// However it ends, the connection is closed with it.
func (c *Client) Monitor(ctx context.Context) iter.Seq2[Monitored, error] {
	return func(yield func(Monitored, error) bool) {
		for b, err := range c.v.More(ctx, Interface+".Monitor", nil) {
			var m Monitored
			if err != nil {
				yield(m, explainCall(err))
				return
			}
			if string(b) == "{}" { // the last reply, of a daemon that has ended the stream
				return
			}
			if err := json.Unmarshal(b, &m); err != nil {
				yield(m, fmt.Errorf("reply to Monitor: %w", err))
				return
			}
			if !yield(m, nil) {
				return
			}
		}
	}
}

func (c *Client) call(ctx context.Context, method string, in, out any) error {
	return explainCall(c.v.Call(ctx, Interface+"."+method, in, out))
}

type ownerRequest struct {
	ID string `json:"id"`
}

type claimRequest struct {
	ID   string `json:"id"`
	Path string `json:"path"`
}

type historyRequest struct {
	Path string `json:"path,omitempty"`
}

// checkText refuses what package json would replace without a word, so that another file would be meant.
func checkText(texts ...string) error {
	for _, s := range texts {
		if !utf8.ValidString(s) {
			return fmt.Errorf("%w: %q is not UTF-8, and the daemon is told of no other", ErrInvalid, s)
		}
	}
	return nil
}
