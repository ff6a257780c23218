// Package keeper looks after the containers that run: it hears which sessions
// end, freezes and stops what nobody uses, and tells users what a limit did to
// them. It is part of carreld and on nobody's way: a login is over before the
// keeper hears of it.
//
// # Use
//
// A container is in use when its user typed a key or a client sent a byte
// (carrelsh says so, at most every few seconds), or when it took CPU time: more
// than 2 ms and a ten-thousandth of one CPU since the last look, its init not
// counted. A connection
// that is merely open is no use. Open terminals are warned before a container
// is frozen or stopped. A frozen one runs on at the next login, or when carrelsh
// says that its user is there. One that is being stopped takes no login any more:
// who comes waits, and gets the next.
//
// # Ends
//
// Init tells of the ends of sessions a tenth of a second later. What ended just
// before the container itself did has no logout of its own but the container's
// stop, and what a carreld that was not there did not see of a container's end
// is in no event.
//
// # Limits
//
// Kills for memory and failed forks are counters of the kernel. The keeper
// reads them where sessions end, where a container ends and every few seconds
// where CPU time was taken, and tells the open terminals; if there is none, the
// next login with a terminal is told.
//
// # What an attacker controls here
//
// What init says of sessions and their ends is as good as the container: a lie
// is a wrong line about that user alone. A user can keep their own container
// from counting as idle.
package keeper
