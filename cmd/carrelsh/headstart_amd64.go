package main

import "github.com/carrel-sh/carrel/session"

// versionAndKind begins the frame, in the machine's order.
const versionAndKind = session.Version | int(session.KindHeadStart)<<8

// headStart is the program's entry point (the Makefile's -E): it sends the
// session.HeadStart and goes on to the runtime's own entry. The Go runtime
// takes about as long to start as all else that carrelsh and carreld do for a
// warm login, and is started while the session is being made.
//
// Nothing is looked at there: argument and environment strings go from where
// execve(2) put them to the socket, and the only writes are to a frame of
// fixed size on the stack. At any doubt the head start is left out, and main
// does it all. That is so for set-uid execution (AT_SECURE, getauxval(3)), for
// strings of more than 64 KiB, for a closed descriptor 0, 1 or 2, and for a
// daemon that cannot be reached at once.
func headStart()

var _, _ = headStart, versionAndKind // for the linker's -E and headstart_amd64.s
