//go:build !nextprotocol

package session

// Version is the protocol's version, the first byte of every frame. It goes
// up when a frame changes shape.
const Version = 1
