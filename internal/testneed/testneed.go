// Package testneed states what a test cannot run without: root, a program, a
// kernel feature. At a desk the test is skipped. Where CARREL_TEST_ROOT is 1,
// as `make test` sets it under root, a missing precondition fails the test,
// so that a suite is never green because it skipped.
package testneed

import (
	"os"
	"os/exec"
	"testing"
)

// Env is the variable that turns a skip into a failure when it is "1".
const Env = "CARREL_TEST_ROOT"

// Root stops the test unless it runs with effective uid 0.
func Root(t testing.TB) {
	t.Helper()
	if os.Getenv(Env) != "1" {
		t.Skipf("needs root: set %s=1 to run it", Env)
	}
	if os.Geteuid() != 0 {
		t.Fatalf("needs root: %s=1, but the effective uid is %d", Env, os.Geteuid())
	}
}

// Tool returns the path of the program name, or stops the test.
func Tool(t testing.TB, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		Unmet(t, "needs the program %q: %v", name, err)
	}
	return path
}

// Unmet stops the test over a precondition that the caller found missing: a
// skip, or a failure where CARREL_TEST_ROOT is 1. It does not return.
func Unmet(t testing.TB, format string, args ...any) {
	t.Helper()
	if os.Getenv(Env) == "1" {
		t.Fatalf(format, args...)
	}
	t.Skipf(format, args...)
}
