// Package broker is the daemon's half of a session: it learns from the kernel
// who calls, asks the policy what they get, makes sure that their container
// runs, has carrel-init start the session, hands the descriptors to the caller
// and leaves. It never touches a byte of a session.
//
// # One login
//
//	accept ── uid (SO_PEERCRED) ── room for one more of this uid? ── request frame
//	    ── account ── policy.Decide ── container (one start per user, whoever asks)
//	    ── init: Spawn → Reply + descriptors ── check ── caller: Reply + descriptors
//
// Everything has a deadline, and nothing is locked across a step that can
// hang but the one user's own start.
//
// # Without a container
//
// Three requests never come to a container. One that says that the user is
// there (session.Awake) thaws what was frozen for idleness. While the door is
// shut for maintenance, each gets its message. And a command that is, byte for
// byte, "carrel status", "carrel sessions", "carrel reset" or "carrel reset
// --yes" is answered by the daemon, where policy says so: it must work when
// nothing in the container does. It is compared, never taken apart, and what it
// is about is the container of the uid that the kernel names.
//
// The same commands can come from inside: a program gives its words to
// carrel-init's socket, which passes them on by the connection on which it tells
// of ends (session.Watch). Carreld made that connection, through a directory of
// root's, so the kernel says whose container it leads to; nothing that was sent
// does.
//
// # What an attacker controls
//
// The caller controls the request and its timing; the uid is the kernel's
// word. No descriptor is ever taken from a caller: the listener refuses them
// (SO_PASSRIGHTS, Linux 6.16), and on older kernels they are received without
// a place to put them, which closes them. The container controls, at worst,
// its reply: descriptors are counted and checked to be what the streams call
// for before they travel on, with calls that ask no file system.
package broker
