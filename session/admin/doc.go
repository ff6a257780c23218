// Package admin is the conversation between carrel(1) and carreld about what
// runs and what should stop.
//
//	carrel                               carreld
//	  │── connect /run/carrel/admin.sock ──▶│  mode 0600, and SO_PEERCRED says root
//	  │── {"version":1,"op":"ps"}\n ───────▶│  one line of JSON, at most 64 KiB
//	  │◀── {"version":1,"containers":[…]}\n │  one line of JSON
//	  │                                     └─ closes
//
// One request and one answer per connection, so that a connection has no
// state; events alone are a line each, and go on for as long as the client
// follows them. It is made for people and scripts, not for the login path: that one
// has a protocol of its own, without JSON, in package session.
//
// # What an attacker controls here
//
// Nobody but root can connect, by the mode of the socket and again by what the
// kernel says about the peer. Requests are still decoded strictly and bounded
// in size and time, since a caller that hangs must not hold up carreld. What
// containers report about themselves (their number of sessions) passes through;
// names come from the host's account database. Who prints them filters them.
package admin
