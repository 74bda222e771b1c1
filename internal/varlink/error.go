package varlink

import (
	"encoding/json"
	"fmt"
)

// Error is an error as it goes over the wire. A method that returns one has it sent; a Client returns it, with Parameters
// of type json.RawMessage.
type Error struct {
	Name       string // with its interface: org.varlink.service.MethodNotFound
	Parameters any    // marshals to an object; nil is an empty one
}

func (e *Error) Error() string {
	if e.Parameters == nil {
		return e.Name
	}
	b, err := json.Marshal(e.Parameters)
	if err != nil || string(b) == "{}" {
		return e.Name
	}
	return fmt.Sprintf("%s %s", e.Name, b)
}

// The names of the errors that every service has.
const (
	InterfaceNotFound    = serviceName + ".InterfaceNotFound"
	MethodNotFound       = serviceName + ".MethodNotFound"
	MethodNotImplemented = serviceName + ".MethodNotImplemented"
	InvalidParameter     = serviceName + ".InvalidParameter"
	PermissionDenied     = serviceName + ".PermissionDenied"
	ExpectedMore         = serviceName + ".ExpectedMore"
)

// The errors of a Server itself, less the interface that Options.ErrorInterface names, whose description declares them.
// All but Internal are followed by the end of the connection.
const (
	Internal           = "Internal"           // (): a method returned an error that is no *Error
	MalformedMessage   = "MalformedMessage"   // (reason: string)
	MessageTooLarge    = "MessageTooLarge"    // (limit: int), in bytes
	MessageTooSlow     = "MessageTooSlow"     // (limit_ms: int)
	SenderMismatch     = "SenderMismatch"     // (reason: string): who sent it is not who connected
	TooManyCalls       = "TooManyCalls"       // (limit: int), sent behind a call with "more" that still runs
	TooManyConnections = "TooManyConnections" // (limit: int, of: string), of "user" or "service"
	Unread             = "Unread"             // (limit: int, of: string), of "connection" or "user": replies were not read. Told to Options.Refused only
	ShuttingDown       = "ShuttingDown"       // ()
)

// InvalidParameterError is the error of a parameter that was given its name.
func InvalidParameterError(name string) *Error {
	if name == "" {
		name = "parameters" // all of them: they are no object
	}
	return &Error{InvalidParameter, map[string]string{"parameter": name}}
}
