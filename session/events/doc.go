// Package events keeps what happened to users' containers: starts and stops,
// logins and logouts, refusals, limits that were hit, and what root did. It is
// what `carrel events` and `carrel logs` show.
//
// # Where
//
// One file of JSON, a line each, in the state directory, mode 0600. When it
// has grown to its bound it becomes FILE.1, and so on up to FILE.3; what is
// older goes. A line is printable ASCII whatever a user or a directory service
// wrote. No event has a command line in it, nor anything that a user typed.
//
// Add never waits: a goroutine writes, and what it cannot keep up with is
// counted and said in a line of its own.
//
// # What an attacker controls here
//
// When they log in, and so how many events there are. A user who does nothing
// else can push older events of all users out of the files: they are bounded
// in size, not in time. carreld says the same on standard error, for a journal
// that keeps more.
package events
