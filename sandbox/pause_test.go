package sandbox

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/carrel-sh/carrel/sandbox/cgroup"
	"github.com/carrel-sh/carrel/session"
)

// ticks is a command that makes a file grow for as long as it runs.
const ticks = "setsid sh -c 'while :; do echo >>/tmp/ticks; sleep 0.02; done' >/dev/null 2>&1 </dev/null &"

// ticking says whether the counter in the user's layer still counts.
func (s *stage) ticking() bool {
	s.t.Helper()
	file := filepath.Join(s.userDir(alice), "upper", "tmp", "ticks")
	if !eventually(func() bool { b, err := os.ReadFile(file); return err == nil && len(b) > 0 }) {
		s.t.Fatal("the counter does not start")
	}
	read := func() string { b, _ := os.ReadFile(file); return string(b) }
	time.Sleep(50 * time.Millisecond)
	before := read()
	time.Sleep(250 * time.Millisecond)
	return read() != before
}

func TestPause(t *testing.T) {
	s := newStage(t)
	c := s.start(alice)
	s.must(c, ticks)
	if !s.ticking() {
		t.Fatal("the counter does not count: the test proves nothing")
	}
	try(t, c.Freeze(t.Context(), Idle))
	if s.ticking() || c.Paused() != Idle {
		t.Errorf("frozen for idleness: ticking, or paused %q", c.Paused())
	}
	// A restarted daemon knows, and the next use thaws.
	s.open()
	if c = s.Find(alice); c == nil || c.Paused() != Idle {
		t.Fatalf("after a restart the container is %v", c)
	}
	begin := time.Now()
	try(t, c.Acquire())
	t.Logf("thawed in %v", time.Since(begin))
	if err := c.Freeze(t.Context(), Idle); !errors.Is(err, ErrBusy) {
		t.Errorf("freezing during a login: %v; want %v", err, ErrBusy)
	}
	c.Release()
	if !s.ticking() || c.Paused() != "" {
		t.Errorf("after Acquire: still, or paused %q", c.Paused())
	}
	if got := s.must(c, "echo alive"); got != "alive" {
		t.Errorf("a session afterwards: %q", got)
	}
	// What root froze, root thaws.
	try(t, c.Freeze(t.Context(), Suspended))
	if err := c.Acquire(); !errors.Is(err, ErrSuspended) {
		t.Errorf("a login into a suspended container: %v; want %v", err, ErrSuspended)
	}
	if was, err := c.Rouse(); was || err != nil {
		t.Errorf("Rouse thawed a suspended container, %v", err)
	}
	s.open()
	c = s.Find(alice)
	if c.Paused() != Suspended || s.ticking() {
		t.Errorf("after a restart: paused %q", c.Paused())
	}
	if was, err := c.Thaw(); !was || err != nil || !s.ticking() {
		t.Errorf("Thaw = %v, %v", was, err)
	}
	// A frozen container can be stopped.
	for _, why := range []Pause{Idle, Suspended} {
		if s.Find(alice) == nil {
			c = s.start(alice)
		}
		try(t, c.Freeze(t.Context(), why))
		begin := time.Now()
		try(t, s.Stop(t.Context(), alice))
		if took := time.Since(begin); took > 3*time.Second {
			t.Errorf("stopping a frozen container took %v", took)
		}
	}
}

// TestPauseNote: the kernel's word counts, not what a dead daemon meant to do.
func TestPauseNote(t *testing.T) {
	s := newStage(t)
	c := s.start(alice)
	try(t, os.WriteFile(c.pauseFile(), []byte(Suspended), 0o600))
	s.open()
	if c = s.Find(alice); c == nil || c.Paused() != "" {
		t.Errorf("a note without a frozen group: %v", c)
	}
	try(t, c.group.Freeze(t.Context()))
	s.open()
	if c = s.Find(alice); c == nil || c.Paused() != Idle {
		t.Errorf("a frozen group without a note is %q; want one that the next login thaws", c.Paused())
	}
	try(t, c.Acquire())
	c.Release()
	s.must(c, "true")
}

func TestSignal(t *testing.T) {
	s := newStage(t)
	c := s.start(alice)
	s.must(c, "trap '' USR1; setsid sleep 1000 >/dev/null 2>&1 </dev/null & setsid sleep 1000 >/dev/null 2>&1 </dev/null & true")
	sleeping := func() bool {
		list, err := c.Processes()
		return err == nil && len(list) == 3 && list[1].Name == "sleep" && list[2].Name == "sleep"
	}
	if !eventually(sleeping) {
		t.Fatal("the processes do not start")
	}
	if n, err := c.Signal(t.Context(), unix.SIGUSR1, 0); n != 2 || err != nil {
		t.Errorf("SIGUSR1 to the container: %d, %v; want 2", n, err)
	}
	if _, err := c.Signal(t.Context(), unix.SIGTERM, session.ID(12345)); !errors.Is(err, ErrNoSession) {
		t.Errorf("a signal to no session: %v; want %v", err, ErrNoSession)
	}
	list, err := c.Processes()
	if err != nil || len(list) != 3 || list[0].PID != c.InitPID || list[1].Name != "sleep" {
		t.Errorf("Processes = %v, %v", list, err)
	}
	if n, err := c.Signal(t.Context(), unix.SIGTERM, 0); n != 2 || err != nil {
		t.Errorf("SIGTERM to the container: %d, %v; want 2", n, err)
	}
	if !eventually(func() bool { return !c.InUse() }) {
		t.Error("the processes did not end")
	}
	if s.Find(alice) == nil {
		t.Error("PID 1 ended with them")
	}
}

func TestDiscard(t *testing.T) {
	s := newStage(t)
	c := s.start(alice)
	s.must(c, "echo mine >/etc/mine; mkdir -p /tmp/a/b; echo x >/tmp/a/b/c")
	layer, home := s.Paths(alice)
	try(t, os.WriteFile(filepath.Join(home, "kept"), nil, 0o600))
	if _, err := s.Discard(alice, false); !errors.Is(err, ErrRuns) {
		t.Errorf("Discard under a running container: %v; want %v", err, ErrRuns)
	}
	try(t, s.Stop(t.Context(), alice))
	if known, err := s.Known(); err != nil || len(known) != 1 || known[0] != alice {
		t.Errorf("Known = %v, %v", known, err)
	}
	ids := c.RangeFirst
	if had, err := s.Discard(alice, false); !had || err != nil {
		t.Errorf("Discard = %v, %v", had, err)
	}
	if _, err := os.Stat(layer); !os.IsNotExist(err) {
		t.Errorf("the layer is still there: %v", err)
	}
	c = s.start(alice)
	if got := s.must(c, "cat /etc/mine 2>&1; ls /tmp"); !strings.Contains(got, "No such file") || strings.HasSuffix(got, "a") {
		t.Errorf("after Discard the file system has %q", got)
	}
	if c.RangeFirst != ids {
		t.Errorf("ids from %d; before %d", c.RangeFirst, ids)
	}
	if _, err := os.Stat(filepath.Join(home, "kept")); err != nil {
		t.Errorf("the home was not kept: %v", err)
	}
	try(t, s.Stop(t.Context(), alice))
	if had, err := s.Discard(alice, true); !had || err != nil {
		t.Errorf("Discard with home = %v, %v", had, err)
	}
	if had, err := s.Discard(alice, true); had || err != nil {
		t.Errorf("Discard of nothing = %v, %v", had, err)
	}
	if known, err := s.Known(); err != nil || len(known) != 0 {
		t.Errorf("Known after all went = %v, %v", known, err)
	}
	// What a daemon that died left half deleted goes with the next one.
	stray := filepath.Join(s.cfg.StateDir, "users", "4711"+goneMark+"1")
	try(t, os.MkdirAll(filepath.Join(stray, "x"), 0o700))
	s.open()
	if !eventually(func() bool {
		left, _ := filepath.Glob(s.cfg.StateDir + "/*/*" + goneMark + "*")
		return len(left) == 0
	}) {
		t.Error("something half deleted stays")
	}
}

// TestEvents hits both limits and finds it in the counters.
func TestEvents(t *testing.T) {
	s := newStage(t)
	want := s.spec(alice)
	want.Limits.MemoryBytes, want.Limits.Pids = 64<<20, 20
	c, err := s.Start(t.Context(), want)
	if err != nil {
		t.Fatal(err)
	}
	if e, err := c.Events(); err != nil || e.OOMKills != 0 || e.PidsHits != 0 {
		t.Errorf("at first: %+v, %v", e, err)
	}
	s.must(c, "head -c 200M /dev/zero | tail -c 190M | wc -c")
	if e, err := c.Events(); err != nil || e.OOMKills == 0 {
		t.Errorf("after running out of memory: %+v, %v", e, err)
	}
	if e, err := c.Unseen(); err != nil || e.OOMKills == 0 {
		t.Errorf("not seen before: %+v, %v", e, err)
	}
	if e, err := c.Unseen(); err != nil || e != (cgroup.Events{}) {
		t.Errorf("seen before: %+v, %v", e, err)
	}
	s.open()
	c = s.Find(alice)
	if e, err := c.Unseen(); err != nil || e != (cgroup.Events{}) {
		t.Errorf("seen by the daemon before: %+v, %v", e, err)
	}
	s.must(c, "setsid sh -c 'for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25; do sleep 5 & done; sleep 5' >/dev/null 2>&1 </dev/null & true")
	if !eventually(func() bool { e, err := c.Events(); return err == nil && e.PidsHits > 0 }) {
		e, err := c.Events()
		t.Errorf("after too many processes: %+v, %v", e, err)
	}
}

// BenchmarkAcquire is what a login into a container that is not frozen pays
// for the possibility that it is.
func BenchmarkAcquire(b *testing.B) {
	c := &Container{}
	for b.Loop() {
		if err := c.Acquire(); err != nil {
			b.Fatal(err)
		}
		c.Release()
	}
}
