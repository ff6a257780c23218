package test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"

	"github.com/carrel-sh/carrel/session"
	"github.com/carrel-sh/carrel/test/internal/host"
)

// TestRelease upgrades everything by one version of the protocol under live
// sessions, and goes back. At each step the files are replaced first, as a
// package does it, so that for a moment the carrelsh of one release meets the
// daemon of the other; then the daemon. Each release has sessions in a container
// of the other one.
func TestRelease(t *testing.T) {
	f := setup(t)
	f.empty(t)
	alice := openPair(t, f, f.alice)
	back, err := f.Next(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	upgraded := true
	t.Cleanup(func() {
		if upgraded {
			if err := back(); err != nil {
				t.Error(err)
			}
		}
		f.restart(t, host.Options{})
	})
	alice.works(t, "files upgraded")
	f.restartDaemon(t)
	alice.works(t, "upgraded")
	bob := openPair(t, f, f.bob)
	bob.works(t, "upgraded")
	for a, want := range map[*host.Account]uint8{&f.alice: session.Version, &f.bob: session.Version + 1} {
		if got := f.speaks(t, *a); got != want {
			t.Errorf("%s's container speaks version %d; want %d", a.Name, got, want)
		}
	}
	if err := back(); err != nil {
		t.Fatal(err)
	}
	upgraded = false
	for _, s := range []*pair{alice, bob} {
		s.works(t, "files downgraded")
	}
	f.restartDaemon(t)
	for _, s := range []*pair{alice, bob} {
		s.works(t, "downgraded")
		s.end(t)
	}
}

// speaks reads which version the daemon spoke that started a's container.
func (f *fixture) speaks(t *testing.T, a host.Account) uint8 {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(f.RunDir, "c", strconv.Itoa(int(a.UID)), "record.json"))
	if err != nil {
		t.Fatal(err)
	}
	var record struct{ Speaks uint8 }
	if err := json.Unmarshal(text, &record); err != nil {
		t.Fatal(err)
	}
	return record.Speaks
}

// A pair is two sessions of one user, a stream and a terminal, that are open
// while the release changes.
type pair struct {
	f      *fixture
	a      host.Account
	stream *stream
	term   *host.Terminal
	place  string
}

func openPair(t *testing.T, f *fixture, a host.Account) *pair {
	t.Helper()
	p := &pair{f: f, a: a, place: f.in(t, a, place)}
	p.stream = startStream(t, f.Direct(a, "-c", "cat; exit 42"))
	p.term = terminal(t, f, a, "-l")
	ask(t, p.term, "echo re''ady", `[\n\r](ready)\r`)
	return p
}

// works uses the open sessions, opens others in the same container, and has the
// daemon ask the container all that it ever asks.
func (p *pair) works(t *testing.T, when string) {
	t.Helper()
	f, a := p.f, p.a
	p.stream.echo(t, 1<<20)
	// Resizing goes past the daemon; a signal is a frame to carrel-init.
	if err := p.term.Resize(33, 99); err != nil {
		t.Error(err)
	}
	ask(t, p.term, "stty size", `(33 99)\r`)
	if got := f.in(t, a, place); got != p.place {
		t.Errorf("%s: a new session of %s is in %s; the old ones in %s", when, a.Name, got, p.place)
	}
	if r := f.In(a, "kill -TERM $$", nil); r.Signal != 15 {
		t.Errorf("%s: a session of %s that dies: %v", when, a.Name, r)
	}
	signalled := f.Direct(a, "-c", "trap 'echo got; exit 7' TERM; echo ready; while :; do sleep 0.1; done")
	term, err := host.OnTerminal(signalled, 24, 80)
	if err != nil {
		t.Fatal(err)
	}
	defer term.Close()
	if _, err := term.Expect(`ready\r`); err != nil {
		t.Fatalf("%s: %v", when, err)
	}
	if err := signalled.Process.Signal(syscall.SIGTERM); err != nil {
		t.Error(err)
	}
	if r := term.Wait(); r.Code != 7 {
		t.Errorf("%s: a session of %s after SIGTERM to carrelsh: %v; want 7", when, a.Name, r)
	}
	wantLine(t, when+": wall", f.carrel(t, "wall", "--user", a.Name, "hello"), `told `+a.Name+` on 1 terminals`)
	if _, err := p.term.Expect(`carrel: hello\r`); err != nil {
		t.Errorf("%s: %v", when, err)
	}
	wantLine(t, when+": ps", f.carrel(t, "ps"), a.Name+` .*running.*`)
	wantLine(t, when+": inspect", f.carrel(t, "inspect", a.Name), ` +s[0-9]+ .*/dev/pts/0 .*`)
	if r := f.In(a, "carrel sessions", nil); r.Code != 0 || r.Err != nil {
		t.Errorf("%s: carrel sessions from inside: %v", when, r)
	}
}

// end ends both, as they would have without all this.
func (p *pair) end(t *testing.T) {
	t.Helper()
	p.stream.end(t, 42)
	send(t, p.term, "exit 9\n")
	if r := p.term.Wait(); r.Code != 9 {
		t.Errorf("the terminal of %s: %v; want 9", p.a.Name, r)
	}
}
