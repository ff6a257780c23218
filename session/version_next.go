//go:build nextprotocol

package session

// Version is one higher than the protocol's version, so that tests can upgrade
// to the release after this one, and go back.
const Version = 2
