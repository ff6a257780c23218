// Package session says what a login session is: what carrelsh asks for, what
// carrel-init is told to run, how either answers, and how a session ends. It
// holds plain types and their encoding; the work is done by session/attach
// (outside), session/broker (the daemon) and session/spawn (inside).
//
// # Life of a session
//
//	carrelsh                 carreld                    carrel-init
//	   | -- Request ----------> |  uid from the kernel        |
//	   |                        | -- Spawn -----------------> | pty or pipes, fork, exec
//	   |                        | <- Reply + descriptors ---- |
//	   | <- Reply + descriptors |                             |
//	   | ============ control socket, pty or pipes ========== |
//	   | -- Signal -----------------------------------------> |
//	   | <------------- Agent + descriptor (ssh -A, any time) |
//	   | <----------------------------------------- Exit ---- |
//
// carrelsh sends a HeadStart before its Go runtime has started, and a Request
// itself only if the answer is Late: a third of a login is that start.
//
// The first two arrows are SOCK_SEQPACKET connections, one frame a packet and
// one exchange a connection. Descriptors travel towards the user only; nobody
// inside ever receives one. When the reply is out, carreld has left.
//
// # Frames
//
//	+---------+--------+-----------------------------------+
//	| version |  kind  | fields, in the order of the type  |
//	+---------+--------+-----------------------------------+
//
// Integers are big-endian and of fixed width; a string is its length in four
// bytes and its bytes; a list is its length in four bytes and its elements; a
// flag is one byte, 0 or 1. A decoder takes a frame exactly or not at all:
// bytes left over, a third value of a flag, a length past the end, a NUL in a
// string or a count over its bound are all ErrFrame. A HeadStart alone looks
// otherwise. Two versions are spoken, as Oldest says.
//
// # What an attacker controls
//
// A local user controls every byte of a Request, and when. The inside of a
// container is treated as if it controlled every byte and descriptor of a
// Reply and of an Exit. Nothing in a frame says who the caller is.
package session
