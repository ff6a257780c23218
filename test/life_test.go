package test

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/carrel-sh/carrel/test/internal/host"
)

// TestJoin checks that a container outlives its logins and is joined by the
// next ones, with what they left running.
func TestJoin(t *testing.T) {
	f := setup(t)
	f.empty(t)
	first := terminal(t, f, f.alice, "-l")
	here := ask(t, first, place, `[\n\r](pid:\[\d+\])\r`)
	if second := f.in(t, f.alice, place); second != here {
		t.Errorf("the second login is in %s; the first in %s", second, here)
	}
	send(t, first, "setsid sleep 4343 >/dev/null 2>&1 </dev/null & sleep 0.1; echo kept >/tmp/kept; exit\n")
	if r := first.Wait(); r.Code != 0 {
		t.Errorf("the first login ended with %v", r)
	}
	if again := f.in(t, f.alice, place); again != here {
		t.Errorf("after logout the container is %s; it was %s", again, here)
	}
	if got := f.in(t, f.alice, "cat /tmp/kept; pgrep -fxc 'sleep 4343'"); got != "kept\n1" {
		t.Errorf("left by the first login: %q; want the file and one process", got)
	}
	f.empty(t)
	if again := f.in(t, f.alice, place+"; pgrep -fxc 'sleep 4343'; true"); again == here || !strings.HasSuffix(again, "\n0") {
		t.Errorf("after carrel stop: %q; want another container without the process", again)
	}
}

// TestFirstLoginsRace starts fifty first logins of one user at once.
func TestFirstLoginsRace(t *testing.T) {
	f := setup(t)
	f.empty(t)
	const n = 50
	results := make([]host.Result, n)
	var wg sync.WaitGroup
	for i := range results {
		wg.Go(func() { results[i] = f.In(f.alice, place+"; echo "+fmt.Sprint(i), nil) })
	}
	wg.Wait()
	places := make(map[string]int)
	for i, r := range results {
		where, number, _ := strings.Cut(strings.TrimSpace(r.Stdout), "\n")
		if r.Code != 0 || r.Err != nil || r.Stderr != "" || number != fmt.Sprint(i) {
			t.Errorf("login %d: %v", i, r)
		}
		places[where]++
	}
	if len(places) != 1 {
		t.Errorf("the logins landed in %v; want one container", places)
	}
	inits, err := f.Inits()
	if err != nil {
		t.Fatal(err)
	}
	if len(inits) != 1 {
		t.Errorf("%d containers run; want 1", len(inits))
	}
}

// TestDaemonKilled kills carreld under a session that streams both ways.
func TestDaemonKilled(t *testing.T) {
	f := setup(t)
	for _, e := range f.Entries() {
		if e.Name == "su" {
			continue // as "su -"
		}
		t.Run(e.Name, func(t *testing.T) {
			here := f.in(t, f.alice, place)
			stream := startStream(t, e.Command(f.alice, "cat; exit 42"))
			stream.echo(t, 8<<20)
			f.Daemon().Kill()
			stream.echo(t, 8<<20)
			r := f.In(f.alice, "true", nil)
			wantFailure(t, "a login without carreld", r, 69, "not running")
			if _, err := f.Start(host.Options{}); err != nil {
				t.Fatal(err)
			}
			stream.echo(t, 8<<20)
			if got := f.in(t, f.alice, place); got != here {
				t.Errorf("after the restart: container %s; before %s", got, here)
			}
			stream.end(t, 42)
		})
	}
}

// A stream is a session that sends back what it gets.
type stream struct {
	cmd *exec.Cmd
	in  io.WriteCloser
	out io.Reader
	rnd *rand.ChaCha8
}

func startStream(t *testing.T, cmd *exec.Cmd) *stream {
	t.Helper()
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill() })
	return &stream{cmd: cmd, in: in, out: out, rnd: rand.NewChaCha8([32]byte{1})}
}

// echo sends n bytes and checks that the same come back.
func (s *stream) echo(t *testing.T, n int) {
	t.Helper()
	data := make([]byte, n)
	_, _ = s.rnd.Read(data)
	sent := make(chan error, 1)
	go func() {
		_, err := s.in.Write(data)
		sent <- err
	}()
	back := make([]byte, n)
	if got, err := io.ReadFull(s.out, back); err != nil {
		t.Fatalf("%d of %d bytes came back: %v", got, n, err)
	}
	if err := <-sent; err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(back, data) {
		t.Error("what came back differs from what was sent")
	}
}

// end closes the stream and checks that nothing more comes, and the status.
func (s *stream) end(t *testing.T, status int) {
	t.Helper()
	s.in.Close()
	rest, err := io.ReadAll(s.out)
	if err != nil || len(rest) != 0 {
		t.Errorf("%d bytes after the end: %v", len(rest), err)
	}
	_ = s.cmd.Wait()
	if got := s.cmd.ProcessState.ExitCode(); got != status {
		t.Errorf("status %d; want %d", got, status)
	}
}

// TestStop checks what ends containers: not SIGTERM, but carrel stop.
func TestStop(t *testing.T) {
	f := setup(t)
	f.empty(t)
	alice, bob := f.in(t, f.alice, place), f.in(t, f.bob, place)
	term := terminal(t, f, f.alice, "-l")
	ask(t, term, "echo re''ady", `[\n\r](ready)\r`)
	if err := f.Stop(); err != nil {
		t.Fatal(err)
	}
	if inits, err := f.Inits(); err != nil || len(inits) != 2 {
		t.Fatalf("%d containers after SIGTERM, %v; want both", len(inits), err)
	}
	ask(t, term, "echo still th''ere", `[\n\r]still (there)\r`)
	if _, err := f.Start(host.Options{}); err != nil {
		t.Fatal(err)
	}
	if a, b := f.in(t, f.alice, place), f.in(t, f.bob, place); a != alice || b != bob {
		t.Errorf("after a restart alice is in %s, bob in %s; before in %s and %s", a, b, alice, bob)
	}
	if r := f.Carrel("stop", f.alice.Name); r.Code != 0 {
		t.Errorf("carrel stop: %v", r)
	}
	if r := term.Wait(); r.Code != 74 || !strings.Contains(r.Stdout, "session was ended") {
		t.Errorf("the login in the stopped container: %v; want exit 74 and a sentence", r)
	}
	if got := f.in(t, f.bob, place); got != bob {
		t.Errorf("bob's container was stopped with alice's")
	}
	f.empty(t)
	if inits, err := f.Inits(); err != nil || len(inits) != 0 {
		t.Errorf("%d containers after carrel stop --all, %v", len(inits), err)
	}
}

// TestNothingLeaks makes and destroys a container two hundred times.
func TestNothingLeaks(t *testing.T) {
	f := setup(t)
	f.empty(t)
	round := func(i int) {
		if r := f.In(f.alice, "true", nil); r.Code != 0 || r.Stdout+r.Stderr != "" {
			t.Fatalf("round %d: %v", i, r)
		}
		if r := f.Carrel("stop", f.alice.Name); r.Code != 0 {
			t.Fatalf("round %d: carrel stop: %v", i, r)
		}
	}
	for i := range 3 { // what is made once and kept
		round(i)
	}
	f.in(t, f.bob, "true") // must be untouched throughout
	before, namespaces := footprint(t, f, nil)
	for i := range 200 {
		round(i)
	}
	after, now := footprint(t, f, before)
	if diff := cmp.Diff(before, after); diff != "" {
		t.Errorf("after 200 rounds (-before +after):\n%s", diff)
	}
	// Others may use the machine: a leak shows as two hundred.
	if now > namespaces+100 {
		t.Errorf("%d network namespaces; before %d", now, namespaces)
	}
	// The twin: a container that is there does show.
	f.in(t, f.alice, "true")
	if with, _ := footprint(t, f, nil); slices.Equal(with, before) {
		t.Error("a running container leaves no footprint: the test proves nothing")
	}
}

func footprint(t *testing.T, f *fixture, want host.Footprint) (host.Footprint, int) {
	t.Helper()
	got, err := f.Steady()
	if want != nil {
		got, err = f.Settle(want)
	}
	if err != nil {
		t.Fatal(err)
	}
	n, err := host.NetworkNamespaces()
	if err != nil {
		t.Fatal(err)
	}
	return got, n
}

// TestTail stalls the reader of two megabytes on stderr: the last byte comes,
// and then the status.
func TestTail(t *testing.T) {
	f := setup(t)
	const size = 2<<20 + 64<<10
	for _, e := range f.Entries() {
		cmd := e.Command(f.alice, fmt.Sprintf("head -c %d /dev/zero | tr '\\0' x >&2; printf tail >&2; exit 7", size))
		stderr, err := cmd.StderrPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		f.in(t, f.alice, "sleep 0.3") // nobody reads meanwhile
		all, err := io.ReadAll(stderr)
		if err != nil {
			t.Fatal(err)
		}
		_ = cmd.Wait()
		if len(all) != size+4 || !bytes.HasSuffix(all, []byte("xtail")) || cmd.ProcessState.ExitCode() != 7 {
			t.Errorf("%s: %d bytes, ends %q, %v; want %d, tail, exit 7", e.Name, len(all), all[max(0, len(all)-8):], cmd.ProcessState, size+4)
		}
	}
}
