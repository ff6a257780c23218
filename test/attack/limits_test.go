package attack

import (
	"strconv"
	"strings"
	"testing"

	"github.com/carrel-sh/carrel/test/internal/host"
)

// TestMemory takes more memory than alice has. The kernel ends the hog, and
// neither PID 1, nor a session beside it, nor bob.
func TestMemory(t *testing.T) {
	f := setup(t)
	f.empty(t)
	path := f.arm(t, f.alice)
	init := f.initOf(t, f.alice)
	stop := f.background(t, f.alice, "echo ready; cat; echo done", "ready")
	for range 3 {
		r := f.In(f.alice, path+" memory", nil)
		if r.Code != 137 && r.Signal != 9 {
			t.Errorf("hog: %v; want it killed", r)
		}
		if got := f.in(t, f.alice, "echo in"); got != "in" {
			t.Errorf("the login after it: %q", got)
		}
		if got := f.in(t, f.bob, "echo in"); got != "in" {
			t.Errorf("bob's: %q", got)
		}
	}
	if now := f.initOf(t, f.alice); now.Pid != init.Pid {
		t.Errorf("PID 1 was %d and is %d", init.Pid, now.Pid)
	}
	if said := stop(); !strings.Contains(said, "done") {
		t.Errorf("the session beside it: %q; want it to have lived", said)
	}
	// The twin: what fits is not killed.
	if got := f.in(t, f.alice, `perl -e '$x = "x" x 20_000_000; print length $x'`); got != "20000000" {
		t.Errorf("20 MB: %q", got)
	}
}

// TestMemoryFiles fills what lies in memory: it counts as the user's own.
func TestMemoryFiles(t *testing.T) {
	f := setup(t)
	r := f.In(f.alice, "head -c 1G /dev/zero >/dev/shm/fill; rm -f /dev/shm/fill; echo in", nil)
	if !strings.Contains(r.Stdout, "in") {
		t.Errorf("after /dev/shm is full: %v", r)
	}
	if got := f.in(t, f.alice, "echo in"); got != "in" {
		t.Errorf("the login after it: %q", got)
	}
}

// TestProcesses takes all processes that alice may have.
func TestProcesses(t *testing.T) {
	f := setup(t)
	f.empty(t)
	path := f.arm(t, f.alice)
	stop := f.background(t, f.alice, path+" processes", "EAGAIN")
	if got := f.in(t, f.bob, "echo in"); got != "in" {
		t.Errorf("bob's login meanwhile: %q", got)
	}
	// Hers is told why, or gets through where one has just ended.
	r := f.In(f.alice, "true", nil)
	if r.Err != nil || r.Code != 0 && (r.Code != 75 || !strings.Contains(r.Stderr, "process limit")) {
		t.Errorf("login at the limit: %v; want status 75 and a sentence", r)
	}
	said := stop()
	n, err := strconv.Atoi(strings.Fields(said)[0])
	if err != nil || n < 5 || n > 120 { // each has several threads, which count
		t.Errorf("%q: %d processes; want fewer than 120", said, n)
	}
	f.empty(t)
	if got := f.in(t, f.alice, "echo in"); got != "in" {
		t.Errorf("the login after it: %q", got)
	}
}

// TestForkBomb is the classic one, which does not end by itself.
func TestForkBomb(t *testing.T) {
	f := setup(t)
	f.empty(t)
	// Each instance ends when it cannot fork, or when the file appears.
	const bomb = `rm -f ~/stop; b() { [ -e ~/stop ] || { b & b; } }; (b) >/dev/null 2>&1 & sleep 1; echo on`
	r := f.In(f.alice, bomb, nil)
	if r.Err != nil {
		t.Fatalf("bomb: %v", r)
	}
	inside, err := f.Inside()
	if err != nil || len(inside) > 130 {
		t.Errorf("%d processes, %v; want at most 120 of alice's", len(inside), err)
	}
	if got := f.in(t, f.bob, "echo in"); got != "in" {
		t.Errorf("bob's login meanwhile: %q", got)
	}
	if r := f.Carrel("stop", f.alice.Name); r.Code != 0 || r.Err != nil {
		t.Errorf("stop it: %v", r)
	}
	if got := f.in(t, f.alice, "echo in"); got != "in" {
		t.Errorf("the login after it: %q", got)
	}
}

// TestTerminals takes all terminals that alice may have.
func TestTerminals(t *testing.T) {
	f := setup(t)
	f.empty(t)
	path := f.arm(t, f.alice)
	stop := f.background(t, f.alice, path+" terminals", "ENOSPC")
	term, err := host.OnTerminal(f.Direct(f.bob, "-c", "tty; echo in"), 24, 80)
	if err != nil {
		t.Fatal(err)
	}
	defer term.Close()
	if r := term.Wait(); r.Code != 0 || !strings.Contains(r.Stdout, "/dev/pts/0") {
		t.Errorf("bob's terminal meanwhile: %v", r)
	}
	// Hers is refused with a sentence; without a terminal she gets in.
	mine, err := host.OnTerminal(f.Direct(f.alice, "-c", "true"), 24, 80)
	if err != nil {
		t.Fatal(err)
	}
	defer mine.Close()
	if r := mine.Wait(); r.Code == 0 || r.Err != nil || !strings.Contains(r.Stdout, "carrel: ") {
		t.Errorf("alice's next terminal: %v; want a failure and a sentence", r)
	}
	if got := f.in(t, f.alice, "echo in"); got != "in" {
		t.Errorf("alice without a terminal: %q", got)
	}
	if said := stop(); !strings.HasPrefix(said, "64 ENOSPC") {
		t.Errorf("terminals: %q; want 64", said)
	}
	again, err := host.OnTerminal(f.Direct(f.alice, "-c", "tty"), 24, 80)
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	if r := again.Wait(); r.Code != 0 {
		t.Errorf("alice's terminal afterwards: %v", r)
	}
}
