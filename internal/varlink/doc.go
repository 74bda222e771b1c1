// Package varlink is the protocol of the control socket, https://varlink.org: a Server that is made to be reachable by
// every user of the machine, and a Client.
//
// It is the house's own because neither Go library, github.com/varlink/go (last released in 2020) nor
// github.com/emersion/go-varlink, asks who its peer is, or bounds what that sends, how slowly, and what it leaves unread.
// It is not a general one: UNIX sockets only, no upgraded connections, no descriptors in messages, no parser of interface
// descriptions, no check of replies against them.
//
// # Who calls
//
// Peer is what the kernel wrote down at connect(2). That is not who sends: a connection can be handed to another process.
// So every piece that is received carries the credentials of who sent it (SO_PASSCRED, unix(7)), and process, user and
// group must be those of the Peer, else the connection is refused. The kernel fills these in with the real ids of the
// sender and those of the Peer with the effective ones: a client that is set-user-ID or set-group-ID and has not made
// them the same is refused too, as is a child that uses its parent's connection. A process outside our pid namespace has
// pid 0, and all such have it: what to allow them is for the methods to decide.
//
// # What is accepted
//
// A message is one JSON object in valid UTF-8, of bounded size and depth, in which no object has a key twice. Unlike
// encoding/json by itself the parameters are compared with the names of the fields exactly, none may be there that has no
// field, and none may be missing or null unless its field is a pointer or says omitempty. A message that cannot be trusted
// to mean what it seems to mean ends its connection; a wrong parameter ends its call.
//
// # Hazards
//
// Each connection has three goroutines and a descriptor. A method runs on one of them and holds up the later calls of its
// own connection, and no other. Idle connections cost no timer and are not closed; their number is limited.
package varlink
