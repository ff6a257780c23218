//go:build vm

package vm

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"

	"github.com/carrel-sh/carrel/internal/testneed"
)

// built are packages of this tree: version 1.0, and 1.1 to upgrade to, which
// speaks the next version of the protocol.
var built struct {
	once  sync.Once
	dir   string
	paths []string
}

func TestMain(m *testing.M) {
	code := m.Run()
	if built.dir != "" {
		os.RemoveAll(built.dir)
	}
	os.Exit(code)
}

func packages(t *testing.T) []string {
	t.Helper()
	built.once.Do(func() {
		dir, err := os.MkdirTemp("/var/tmp", "carrel-vm-")
		if err != nil {
			t.Fatal(err)
		}
		built.dir = dir
		built.paths = []string{makeDeb(t, "1.0", dir), makeDeb(t, "1.1", dir, "TAGS=nextprotocol")}
	})
	if built.paths == nil {
		t.Fatal("make deb failed before")
	}
	return built.paths
}

// makeDeb runs make deb as the README has it, and returns the package.
func makeDeb(t *testing.T, version, dir string, env ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "make", "-s", "-C", "../..", "deb", "VERSION="+version, "DEBDIR="+dir, "BIN="+filepath.Join(dir, "bin"))
	cmd.Env = append(os.Environ(), append(env, "MAKEFLAGS=")...)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("make deb: %v\n%s", err, out)
	}
	found, err := filepath.Glob(filepath.Join(dir, "carrel_"+version+"_*.deb"))
	if err != nil || len(found) != 1 {
		t.Fatalf("make deb made %q, %v", found, err)
	}
	return found[0]
}

// TestReproducibleFromNothing compiles every package once more, which
// packaging/deb leaves to Go's cache.
func TestReproducibleFromNothing(t *testing.T) {
	testneed.Root(t)
	cache, err := os.MkdirTemp("/var/tmp", "carrel-gocache-")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(cache)
	first, err := os.ReadFile(packages(t)[0])
	if err != nil {
		t.Fatal(err)
	}
	second, err := os.ReadFile(makeDeb(t, "1.0", t.TempDir(), "GOCACHE="+cache))
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(first, second) {
		t.Errorf("two builds differ: %d and %d bytes", len(first), len(second))
	}
}
