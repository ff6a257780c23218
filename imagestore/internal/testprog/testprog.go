// Package testprog builds programs for tests of the image store.
package testprog

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/carrel-sh/carrel/internal/testneed"
)

// Unpack is the import path of the worker.
const Unpack = "github.com/carrel-sh/carrel/cmd/carrel-unpack"

// Build builds the program of a package, static as it is shipped, and returns
// its path. The directories above it are closed to everybody else, as they
// are where somebody builds in root's home.
func Build(t testing.TB, pkg string) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "program")
	cmd := exec.CommandContext(t.Context(), testneed.Tool(t, "go"), "build", "-o", path, pkg)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("go build %s: %v\n%s", pkg, err, out)
	}
	if err := os.Chmod(path, 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}
