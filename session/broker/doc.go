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
// # What an attacker controls
//
// The caller controls the request and its timing; the uid is the kernel's
// word. No descriptor is ever taken from a caller: the listener refuses them
// (SO_PASSRIGHTS, Linux 6.16), and on older kernels they are received without
// a place to put them, which closes them. The container controls, at worst,
// its reply: descriptors are counted and checked to be what the streams call
// for before they travel on, with calls that ask no file system.
package broker
