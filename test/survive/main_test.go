package survive

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"testing"

	"github.com/carrel-sh/carrel/internal/testneed"
	"github.com/carrel-sh/carrel/test/internal/host"
)

// shared is the host of all tests; nil where they cannot run.
var shared *host.Host

func init() { runtime.LockOSThread() } // for host.As

func TestMain(m *testing.M) { os.Exit(host.Main("survive", m.Run, furnish)) }

// furnish puts the same carreld in place, but one that kills itself where it
// is told to.
func furnish(ctx context.Context, h *host.Host) error {
	build := exec.CommandContext(ctx, "go", "build", "-buildvcs=false", "-tags", "failpoint",
		"-ldflags", "-X main.socketPath="+h.Socket(), "-o", h.Path("carreld"), "./cmd/carreld")
	build.Dir = "../.."
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("go build: %w\n%s", err, out)
	}
	shared = h
	return nil
}

func setup(t *testing.T) *host.Host {
	t.Helper()
	testneed.Root(t)
	if shared == nil {
		t.Fatal("no test host")
	}
	return shared
}

// account makes one that is gone with the test.
func account(t *testing.T, h *host.Host, suffix string) host.Account {
	t.Helper()
	a, err := h.Account(suffix, "")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := h.Remove(a); err != nil {
			t.Error(err)
		}
	})
	return a
}

func start(t *testing.T, h *host.Host, o host.Options) {
	t.Helper()
	if _, err := h.Start(o); err != nil {
		t.Fatal(err)
	}
}
