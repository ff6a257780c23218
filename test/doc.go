// Package test holds the tests that cross packages: the real binaries, a real
// sshd, real accounts of this machine, and what Carrel promises about them.
//
// TestMain makes one private host (test/internal/host) for all of them, with
// the accounts alice and bob, whose shell is carrelsh, and plain, whose shell
// is bash: the oracle for everything that must be as on a host without Carrel.
// Tests that need another configuration restart the daemon and put it back, so
// none of them is parallel.
package test
