package client

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/sockwatch/sockwatch/internal/varlink"
)

// What calls fail with. The text of an error that is one of these, as errors.Is tells, has what it is about and why.
var (
	ErrNoDaemon      = errors.New("no sockwatch daemon is running")
	ErrNoSuchProcess = errors.New("there is no such process, or its pid is another's now")
	ErrNoSuchOwner   = errors.New("it is not watched for this user")
	ErrNoSuchClaim   = errors.New("there is no such claim")
	ErrNotPermitted  = errors.New("the daemon does not permit it")
	ErrInvalid       = errors.New("the daemon cannot make sense of it")
	ErrLimit         = errors.New("a limit of the daemon is reached")
	ErrFailed        = errors.New("the daemon could not do it")
	ErrRefused       = errors.New("the daemon has refused the connection")
	ErrShuttingDown  = errors.New("the daemon is shutting down")
	ErrDisconnected  = errors.New("the connection to the daemon has ended")
	ErrUnsupported   = errors.New("the daemon does not have this, it is of another version")
)

// explainDial names the address, and says so when there is nobody.
func explainDial(addr string, err error) error {
	var op *net.OpError
	if errors.As(err, &op) {
		err = op.Err // without the address, which is empty where it could not be used
	}
	switch {
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENOTDIR):
		return fmt.Errorf("%w (%s: %w)", ErrNoDaemon, addr, err)
	case errors.Is(err, unix.ECONNREFUSED): // a daemon that was killed has left it
		return fmt.Errorf("%w (%s: nobody listens: %w)", ErrNoDaemon, addr, err)
	case errors.Is(err, unix.EACCES):
		return fmt.Errorf("%w: connect to %s: %w", ErrNotPermitted, addr, err)
	}
	return fmt.Errorf("connect to the daemon at %s: %w", addr, err)
}

// explainCall makes an error of the interface one of ours.
func explainCall(err error) error {
	var e *varlink.Error
	switch {
	case err == nil:
		return nil
	case errors.As(err, &e):
		return explainReply(e)
	case errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, net.ErrClosed), errors.Is(err, varlink.ErrBroken),
		errors.Is(err, unix.ECONNRESET), errors.Is(err, unix.EPIPE):
		return fmt.Errorf("%w: %w", ErrDisconnected, err)
	}
	return err
}

// errorParameters are those of all errors.
type errorParameters struct {
	Process string `json:"process"`
	ID      string `json:"id"`
	Path    string `json:"path"`
	What    string `json:"what"`
	Why     string `json:"why"`
	Limit   int64  `json:"limit"`
	LimitMS int64  `json:"limit_ms"`
	Of      string `json:"of"`
	Reason  string `json:"reason"`

	Parameter string `json:"parameter"`
	Method    string `json:"method"`
	Interface string `json:"interface"`
}

func explainReply(e *varlink.Error) error {
	var p errorParameters
	if b, ok := e.Parameters.(json.RawMessage); ok {
		_ = json.Unmarshal(b, &p) // what is missing in the text is missing in the reply
	}
	about := func(sentinel error, parts ...string) error {
		said := ""
		for _, part := range parts {
			if part != "" {
				said += ": " + part
			}
		}
		return fmt.Errorf("%w%s", sentinel, said)
	}
	name, own := strings.CutPrefix(e.Name, Interface+".")
	if !own {
		switch e.Name {
		case varlink.InvalidParameter:
			return about(ErrInvalid, "parameter "+p.Parameter)
		case varlink.PermissionDenied:
			return about(ErrNotPermitted)
		case varlink.MethodNotFound, varlink.MethodNotImplemented, varlink.InterfaceNotFound:
			return about(ErrUnsupported, cmp.Or(p.Method, p.Interface))
		}
		return e
	}
	switch name {
	case "NoSuchProcess":
		return about(ErrNoSuchProcess, p.Process)
	case "NoSuchOwner":
		return about(ErrNoSuchOwner, p.ID)
	case "NoSuchClaim":
		return about(ErrNoSuchClaim, p.Path)
	case "NotPermitted":
		return about(ErrNotPermitted, p.What, p.Why)
	case "Invalid":
		return about(ErrInvalid, p.What, p.Why)
	case "LimitReached":
		return about(ErrLimit, fmt.Sprintf("%s, at most %d", p.What, p.Limit))
	case "Failed":
		return about(ErrFailed, p.Why)
	case varlink.Internal:
		return about(ErrFailed, "its log says why")
	case varlink.TooManyConnections:
		of := "in all"
		if p.Of == "user" {
			of = "of one user"
		}
		return about(ErrLimit, fmt.Sprintf("connections %s, at most %d", of, p.Limit))
	case varlink.TooManyCalls:
		return about(ErrLimit, fmt.Sprintf("calls that wait on one connection, at most %d", p.Limit))
	case varlink.MessageTooLarge:
		return about(ErrLimit, fmt.Sprintf("bytes of a call, at most %d", p.Limit))
	case varlink.MessageTooSlow:
		return about(ErrRefused, fmt.Sprintf("a call took more than %d ms to arrive", p.LimitMS))
	case varlink.MalformedMessage, varlink.SenderMismatch:
		return about(ErrRefused, p.Reason)
	case varlink.ShuttingDown:
		return ErrShuttingDown
	}
	return e
}
