// Package host makes a whole Carrel host for a test, a benchmark or the demo:
// the binaries built and installed below a directory of their own, a private
// carreld, throw-away accounts whose login shell is that carrelsh, and a
// private sshd on loopback. Nothing of it touches a Carrel that the machine
// may already run, and Close takes away everything that was made.
//
// It needs root. Processes are ended by the ids that were noted when they
// were started, never by name.
package host
