package survive

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"syscall"
	"testing"

	"github.com/carrel-sh/carrel/internal/testneed"
	"github.com/carrel-sh/carrel/test/internal/host"
)

// shared is the host of all tests; nil where they cannot run.
var shared *host.Host

func init() { runtime.LockOSThread() } // for host.As

func TestMain(m *testing.M) {
	code := 1
	if err := withHost(func() { code = m.Run() }); err != nil {
		fmt.Fprintln(os.Stderr, "test host:", err)
		code = max(code, 1)
	}
	os.Exit(code)
}

func withHost(run func()) (err error) {
	if os.Getenv(testneed.Env) != "1" || os.Geteuid() != 0 {
		run() // each test skips or fails by itself
		return nil
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	h, err := host.New(ctx, "survive")
	if err != nil {
		return err
	}
	over := context.AfterFunc(ctx, func() {
		fmt.Fprintln(os.Stderr, "interrupted:", h.Close())
		os.Exit(130)
	})
	defer over()
	defer func() {
		if closeErr := h.Close(); err == nil {
			err = closeErr
		}
	}()
	// The same program, but it kills itself where it is told to.
	build := exec.Command("go", "build", "-buildvcs=false", "-tags", "failpoint",
		"-ldflags", "-X main.socketPath="+h.Socket(), "-o", h.Path("carreld"), "./cmd/carreld")
	build.Dir = "../.."
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("go build: %w\n%s", err, out)
	}
	shared = h
	run()
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
