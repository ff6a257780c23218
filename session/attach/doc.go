// Package attach is the user's half of a session, run by carrelsh: it asks
// carreld for a session, takes over its descriptors, and relays bytes, window
// size and signals until the session's first process has ended.
//
// It runs as the user and holds no right and no secret. The descriptors that
// it gets lead into the container; the ones that it was started with never
// leave the process. Both ends are hostile: a peer that stalls or lies can
// make this one session wait or end, and nothing else.
//
// # Relay
//
//	descriptor 0 --> terminal's master, or stdin's pipe     half-close at end of file
//	descriptor 1 <-- terminal's master, or stdout's pipe    until end of file
//	descriptor 2 <-- stderr's pipe
//
// Each direction has a goroutine of its own with blocking reads and writes: a
// stalled reader of one never stalls another, nothing is buffered beyond one
// block, and the descriptors that were inherited are never made non-blocking,
// for they are shared with strangers (open(2), O_NONBLOCK).
//
// When the first process has ended, what it wrote is relayed to the last
// byte. A background process may hold the other end open, so the relay then
// ends as soon as nothing has come for a moment.
package attach
