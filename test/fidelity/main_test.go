//go:build fidelity

package fidelity

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/carrel-sh/carrel/internal/testneed"
	"github.com/carrel-sh/carrel/test/internal/host"
)

var update = flag.Bool("update", false, "write TABLE.md and the golden files")

// A fixture is the host that all checks share.
type fixture struct {
	*host.Host
	sshd  *host.SSHD
	doors []*door
	// shells are accounts by the shell that policy gives them.
	shells  map[string]host.Account
	regress host.Account // whose home is the host's
	keys    string       // directory of the client's key in other formats

	mu   sync.Mutex
	many []host.Account // for the crowd

	screens atomic.Int64 // opened so far
}

// shared is nil where the suite cannot run; see TestMain.
var shared *fixture

func init() {
	// host.As needs the first thread of the process to be the main goroutine's.
	runtime.LockOSThread()
}

func TestMain(m *testing.M) {
	if os.Getenv(clientEnv) != "" {
		os.Exit(goClient(os.Args[1:]))
	}
	flag.Parse()
	code := 1
	err := withHost(func() { code = m.Run() })
	if err != nil {
		fmt.Fprintln(os.Stderr, "fidelity host:", err)
		code = max(code, 1)
	}
	os.Exit(code)
}

// withHost makes the shared host, if this process may, around run.
func withHost(run func()) (err error) {
	if os.Getenv(testneed.Env) != "1" || os.Geteuid() != 0 {
		run() // each test skips or fails by itself
		return nil
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	h, err := host.New(ctx, "fid")
	if err != nil {
		return err
	}
	over := context.AfterFunc(ctx, func() {
		fmt.Fprintln(os.Stderr, "interrupted:", h.Close())
		os.Exit(130)
	})
	defer over() // before stop, which would set it off
	defer over() // before stop, which would set it off
	defer func() {
		if closeErr := h.Close(); closeErr != nil && err == nil {
			err = closeErr
		}
	}()
	f := &fixture{Host: h, shells: make(map[string]host.Account)}
	if f.sshd, err = h.ServeSSH(); err != nil {
		return err
	}
	if err := f.makeDoors(); err != nil {
		return err
	}
	config, err := f.makeShells()
	if err != nil {
		return err
	}
	if _, err = h.Start(host.Options{Config: config}); err != nil {
		return err
	}
	shared = f
	run()
	return nil
}

// wantedShells are what policy gives to an account each. The last one is in
// no image.
var wantedShells = []string{"/usr/bin/zsh", "/usr/bin/fish", "/bin/dash", "/bin/nonesuch"}

// makeShells makes the accounts with other shells and returns their rules.
func (f *fixture) makeShells() (string, error) {
	var config string
	for i, shell := range wantedShells {
		a, err := f.Account(fmt.Sprintf("s%d", i), "")
		if err != nil {
			return "", err
		}
		f.shells[shell] = a
		config += fmt.Sprintf("[[rule]]\nusers = [%q]\nshell = %q\n", a.Name, shell)
	}
	// OpenSSH's own tests share files between the client and the session.
	a, err := f.Account("r", "")
	f.regress = a
	return config + fmt.Sprintf("[[rule]]\nusers = [%q]\nhome = \"host\"\n", a.Name), err
}

// setup returns the shared host, or stops the test.
func setup(t *testing.T) *fixture {
	t.Helper()
	testneed.Root(t)
	if shared == nil {
		t.Fatal("BUG: no shared host")
	}
	return shared
}
