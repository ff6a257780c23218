package test

import (
	"context"
	"os"
	"runtime"
	"strings"
	"testing"

	"github.com/carrel-sh/carrel/internal/testneed"
	"github.com/carrel-sh/carrel/test/internal/host"
)

// A fixture is the host that the tests share.
type fixture struct {
	*host.Host
	alice, bob, plain host.Account
	sshd              *host.SSHD
}

// shared is nil where the tests cannot run; see TestMain.
var shared *fixture

func init() {
	// host.As needs the first thread of the process to be the main goroutine's.
	runtime.LockOSThread()
}

func TestMain(m *testing.M) { os.Exit(host.Main("test", m.Run, furnish)) }

func furnish(_ context.Context, h *host.Host) (err error) {
	f := &fixture{Host: h}
	for _, a := range []struct {
		account       *host.Account
		suffix, shell string
	}{{&f.alice, "a", ""}, {&f.bob, "b", ""}, {&f.plain, "p", "/bin/bash"}} {
		if *a.account, err = h.Account(a.suffix, a.shell); err != nil {
			return err
		}
	}
	if f.sshd, err = h.ServeSSH(); err != nil {
		return err
	}
	_, err = h.Start(host.Options{})
	shared = f
	return err
}

// setup returns the shared host with a running daemon in its default
// configuration, or stops the test.
func setup(t *testing.T) *fixture {
	t.Helper()
	testneed.Root(t)
	if shared == nil {
		t.Fatal("BUG: no shared host")
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("carreld's log ends:\n%s", shared.LogTail())
		}
	})
	return shared
}

// reconfigure restarts the daemon without containers and with other options,
// and puts the default ones back when the test ends.
func (f *fixture) reconfigure(t *testing.T, o host.Options) {
	t.Helper()
	f.restart(t, o)
	t.Cleanup(func() { f.restart(t, host.Options{}) })
}

func (f *fixture) restart(t *testing.T, o host.Options) {
	t.Helper()
	f.empty(t)
	if err := f.Stop(); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Start(o); err != nil {
		t.Fatal(err)
	}
}

// empty stops all containers.
func (f *fixture) empty(t *testing.T) {
	t.Helper()
	if d := f.Daemon(); d == nil || !d.Running() {
		if _, err := f.Start(host.Options{}); err != nil {
			t.Fatal(err)
		}
	}
	if r := f.Carrel("stop", "--all"); r.Code != 0 || r.Err != nil {
		t.Fatalf("carrel stop --all: %v", r)
	}
}

// account makes one more account for this test alone.
func (f *fixture) account(t *testing.T, suffix, shell string) host.Account {
	t.Helper()
	a, err := f.Account(suffix, shell)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if r := f.Carrel("stop", a.Name); r.Err != nil {
			t.Error(r)
		}
		if err := f.Remove(a); err != nil {
			t.Error(err)
		}
	})
	return a
}

// in runs command in a session of a, which must succeed, and returns what it
// wrote, less the last newline.
func (f *fixture) in(t *testing.T, a host.Account, command string) string {
	t.Helper()
	r := f.In(a, command, nil)
	if r.Code != 0 || r.Err != nil || r.Stderr != "" {
		t.Fatalf("%s: carrelsh -c %q: %v", a.Name, command, r)
	}
	return strings.TrimSuffix(r.Stdout, "\n")
}

// place is a command that names the container that it runs in.
const place = "readlink /proc/self/ns/pid"

// terminal runs a command on a terminal of 47 rows and 131 columns.
func terminal(t *testing.T, f *fixture, a host.Account, args ...string) *host.Terminal {
	t.Helper()
	cmd := f.Direct(a, args...)
	cmd.Env = append(cmd.Env, "TERM=xterm-256color")
	term, err := host.OnTerminal(cmd, 47, 131)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { term.Close() })
	return term
}

// ask types a line and returns what the pattern's group matched in the answer.
func ask(t *testing.T, term *host.Terminal, line, pattern string) string {
	t.Helper()
	got, err := term.Ask(line, pattern)
	if err != nil {
		t.Fatal(err)
	}
	return got
}

// wantFailure checks one of Carrel's own failures: its status, nothing on
// stdout, and one plain sentence that says sub.
func wantFailure(t *testing.T, what string, r host.Result, status int, sub string) {
	t.Helper()
	line, ok := strings.CutSuffix(r.Stderr, "\n")
	switch {
	case r.Err != nil || r.Code != status:
		t.Errorf("%s: %v; want exit status %d", what, r, status)
	case r.Stdout != "":
		t.Errorf("%s: stdout %q; want nothing", what, r.Stdout)
	case !ok || strings.Contains(line, "\n") || !strings.HasPrefix(line, "carrel: ") || !strings.Contains(line, sub):
		t.Errorf("%s: stderr %q; want one line, \"carrel: …%s…\"", what, r.Stderr, sub)
	}
}
