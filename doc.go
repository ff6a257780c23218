// Package carrel is the root of Carrel, a per-user isolating login shell.
//
// It holds no code but the tests that keep the whole tree in order: which
// package may import which, and which binary may link what.
package carrel
