package sandbox

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/carrel-sh/carrel/sandbox/cgroup"
)

func TestLifeCycle(t *testing.T) {
	s := newStage(t)
	first := s.trace()
	ended := make(chan uint32, 10)
	s.Manager.cfg.Ended = func(uid uint32) { ended <- uid }
	if s.Find(alice) != nil {
		t.Fatal("a container before the first start")
	}
	c := s.start(alice)
	if s.Find(alice) != c || len(s.Running()) != 1 {
		t.Error("Find does not find the container")
	}
	if got := s.must(c, "id -u; cat /proc/1/comm; hostname; cat /etc/passwd; ls -d /home/*"); got !=
		"1000\ninit\nh-u1000\nroot:x:0:0::/:/bin/sh\nu1000:x:1000:1000::/home/u1000:/bin/sh\n/home/u1000" {
		t.Errorf("inside: %q", got)
	}
	if _, err := s.Start(t.Context(), s.spec(alice)); err == nil {
		t.Error("a second start of a running container succeeded")
	}
	if usage, err := c.Usage(); err != nil || usage.Pids == 0 {
		t.Errorf("Usage = %+v, %v", usage, err)
	}
	s.must(c, "setsid sleep 1000 >/dev/null 2>&1 &")
	if !c.InUse() {
		t.Error("a container with a process besides PID 1 is not in use")
	}
	try(t, s.Stop(t.Context(), alice))
	select {
	case <-c.Done():
	default:
		t.Error("Done is open after Stop")
	}
	if uid := <-ended; uid != alice {
		t.Errorf("Ended was told of uid %d", uid)
	}
	if s.Find(alice) != nil {
		t.Error("Find finds a stopped container")
	}
	try(t, s.Stop(t.Context(), alice)) // idempotent
	s.Manager.cfg.Ended = nil
	again := s.start(alice)
	if again.RangeFirst != c.RangeFirst {
		t.Errorf("range %d at the first start, %d at the second", c.RangeFirst, again.RangeFirst)
	}
	if again.InUse() {
		t.Error("a new container is in use")
	}
	try(t, s.Stop(t.Context(), alice))
	// The parent cgroups stay; they may have been made by this test.
	s.settle("after all", footprint{s.trace().lines, first.descriptors})
}

// TestKilledFromOutside: PID 1 ends by itself; Find knows, Stop cleans up, and
// the next start works.
func TestKilledFromOutside(t *testing.T) {
	s := newStage(t)
	s.start(alice)
	try(t, s.Stop(t.Context(), alice))
	before := s.trace()
	c := s.start(alice)
	try(t, unix.Kill(c.InitPID, unix.SIGKILL))
	<-c.Done()
	if s.Find(alice) != nil {
		t.Error("Find finds a dead container")
	}
	try(t, s.Stop(t.Context(), alice))
	s.settle("after the kill", before)
	s.must(s.start(alice), "true")
}

// TestNoLeak creates and destroys.
func TestNoLeak(t *testing.T) {
	s := newStage(t)
	s.start(alice)
	try(t, s.Stop(t.Context(), alice))
	before := s.trace()
	for range 20 {
		s.must(s.start(alice), "sleep 100 >/dev/null 2>&1 & true")
		try(t, s.Stop(t.Context(), alice))
	}
	s.settle("20 rounds", before)
}

// TestAdopt: a restarted daemon has the containers of the former.
func TestAdopt(t *testing.T) {
	s := newStage(t)
	a, b := s.start(alice), s.start(2000)
	if a.RangeFirst == b.RangeFirst {
		t.Errorf("two users of the range %d", a.RangeFirst)
	}
	s.must(a, "echo mark >/tmp/mark")
	s.open()
	again := s.Find(alice)
	if again == nil || again.InitPID != a.InitPID || again.Outdated(ref(s.spec(alice))) {
		t.Fatalf("adopted %+v; want the container of pid %d, and not outdated", again, a.InitPID)
	}
	if got := s.must(again, "cat /tmp/mark"); got != "mark" {
		t.Errorf("inside: %q", got)
	}
	try(t, s.Stop(t.Context(), alice))
	if s.Find(2000) == nil {
		t.Error("bob's container went with alice's")
	}
	if _, err := processStart(a.InitPID); err == nil {
		t.Error("alice's PID 1 lives on")
	}
}

func ref(s Spec) *Spec { return &s }

// TestAdoptRefuses: a record that is damaged, another's, or of another boot is
// no container; whatever it names is left alone, and what was of its own is
// removed.
func TestAdoptRefuses(t *testing.T) {
	s := newStage(t)
	victim := exec.Command("sleep", "1000")
	try(t, victim.Start())
	t.Cleanup(func() { _ = victim.Process.Kill(); _ = victim.Wait() })
	start, err := processStart(victim.Process.Pid)
	try(t, err)
	s.start(alice)
	try(t, s.Stop(t.Context(), alice))
	before := s.trace()
	good := func(c *Container) record { return c.record }
	for what, damage := range map[string]func(r record) any{
		"text":             func(record) any { return "text" },
		"a list":           func(record) any { return []int{1} },
		"another version":  func(r record) any { r.Version++; return r },
		"another user":     func(r record) any { r.UID++; return r },
		"another boot":     func(r record) any { r.BootID = "00000000-0000-0000-0000-000000000000"; return r },
		"no boot":          func(r record) any { r.BootID = ""; return r },
		"another start":    func(r record) any { r.InitStart--; return r },
		"pid 0":            func(r record) any { r.InitPID = 0; return r },
		"pid -1":           func(r record) any { r.InitPID = -1; return r },
		"no process":       func(r record) any { r.InitPID = 1 << 30; return r },
		"a stranger's pid": func(r record) any { r.InitPID = victim.Process.Pid; return r },
		"a stranger":       func(r record) any { r.InitPID, r.InitStart = victim.Process.Pid, start; return r },
	} {
		c := s.start(alice)
		path := filepath.Join(s.containerDir(alice), "record.json")
		b, err := json.Marshal(damage(good(c)))
		try(t, err)
		try(t, os.WriteFile(path, b, 0o600))
		s.open()
		if got := s.Find(alice); got != nil {
			t.Errorf("%s: adopted pid %d", what, got.InitPID)
			_ = s.Stop(t.Context(), alice)
		}
		if _, err := processStart(c.InitPID); err == nil {
			t.Errorf("%s: PID 1 lives on, and nobody knows of it", what)
		}
		c.pidfd.Close() // the former daemon's
		s.settle(what, before)
	}
	for what, content := range map[string]string{"empty": "", "half": `{"version": 1, "us`, "zeroes": string(make([]byte, 100))} {
		c := s.start(alice)
		try(t, os.WriteFile(filepath.Join(s.containerDir(alice), "record.json"), []byte(content), 0o600))
		s.open()
		if s.Find(alice) != nil {
			t.Errorf("%s: adopted", what)
		}
		<-c.Done()
		c.pidfd.Close()
		s.settle(what, before)
	}
	if err := victim.Process.Signal(unix.Signal(0)); err != nil {
		t.Errorf("the stranger that a record named: %v; want it alive", err)
	}
}

// TestOpenRemovesLeftovers: a directory or cgroup without a container.
func TestOpenRemovesLeftovers(t *testing.T) {
	s := newStage(t)
	s.start(alice)
	try(t, s.Stop(t.Context(), alice))
	before := s.trace()
	try(t, os.MkdirAll(s.containerDir(3000), 0o700))
	try(t, os.WriteFile(s.containerDir(3000)+"/init.sock", nil, 0o600))
	try(t, os.MkdirAll(s.runtimeDir()+"/u3000", 0o700))
	_, _, err := cgroup.Create(parent(), "u3001", cgroup.Limits{Pids: 5})
	try(t, err)
	try(t, os.MkdirAll(filepath.Join(s.cfg.RunDir, "c", "not-a-uid"), 0o700)) // nobody's, left alone
	s.open()
	if got := names(t, filepath.Join(s.cfg.RunDir, "c")); !slices.Equal(got, []string{"not-a-uid"}) {
		t.Errorf("directories left: %q", got)
	}
	try(t, os.Remove(filepath.Join(s.cfg.RunDir, "c", "not-a-uid")))
	s.settle("leftovers", before)
}

// TestStartFails: whatever goes wrong, there is an error, nothing is left, and
// the next start works.
func TestStartFails(t *testing.T) {
	s := newStage(t)
	s.start(alice)
	try(t, s.Stop(t.Context(), alice))
	before := s.trace()
	broken := errors.New("broken")
	cases := map[string]func(*Config, *Spec){
		"no layer":            func(_ *Config, sp *Spec) { sp.Layers = []string{s.dir + "/none"} },
		"a file as layer":     func(_ *Config, sp *Spec) { sp.Layers = []string{s.dir + "/image/etc/passwd"} },
		"128 layers":          func(_ *Config, sp *Spec) { sp.Layers = slices.Repeat(sp.Layers, 128) },
		"no bind":             func(_ *Config, sp *Spec) { sp.Binds[0].Source = s.dir + "/none" },
		"a bind to nowhere":   func(_ *Config, sp *Spec) { sp.Binds[0].Target = "/etc/passwd/x" },
		"another's home":      func(_ *Config, sp *Spec) { sp.Home, sp.HomePath = HomeHost, "/root" },
		"a bad limit":         func(_ *Config, sp *Spec) { sp.Limits.Pids = -1 },
		"a limit of nothing":  func(_ *Config, sp *Spec) { sp.Limits.MemoryBytes = 4096 },
		"a network of no use": func(c *Config, _ *Spec) { c.Link = func(context.Context, uint32, int) error { return broken } },
		"no runtime":          func(c *Config, _ *Spec) { c.LibexecDir = s.dir },
		"a reserved uid":      func(_ *Config, sp *Spec) { sp.User.UID = 0x7800_0001 },
	}
	for what, change := range cases {
		cfg, sp := s.Manager.cfg, s.spec(alice)
		change(&s.Manager.cfg, &sp)
		c, err := s.Start(t.Context(), sp)
		s.Manager.cfg = cfg
		if err == nil {
			t.Errorf("%s: started pid %d", what, c.InitPID)
			_ = s.Stop(t.Context(), alice)
		}
		s.settle(what, before)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.Start(ctx, s.spec(alice)); !errors.Is(err, context.Canceled) {
		t.Errorf("given up before: %v; want Canceled", err)
	}
	s.settle("given up", before)
	s.must(s.start(alice), "true")
}

// TestRuntimeDies puts a script in the place of carrel-runtime that ends, lies,
// hangs, or is killed at some moment of its work.
func TestRuntimeDies(t *testing.T) {
	s := newStage(t)
	s.start(alice)
	try(t, s.Stop(t.Context(), alice))
	before := s.trace()
	lib := filepath.Join(s.dir, "libexec")
	try(t, os.Mkdir(lib, 0o755))
	try(t, os.Link(scene+"/libexec/carrel-init", lib+"/carrel-init"))
	real := scene + "/libexec/carrel-runtime"
	scripts := map[string]string{
		"exits":                  "exit 1",
		"says nothing":           "exit 0",
		"says garbage":           "echo garbage",
		"names nobody":           `echo '{"initPid": 0}'`,
		"names no process":       `echo '{"initPid": 1073741824}'`,
		"hangs":                  "sleep 1000",
		"kills itself":           "kill -9 $$",
		"fails when all is made": real + " create >/dev/null; exit 1",
		"lies when all is made":  real + ` create >/dev/null; echo '{"initPid": 1073741824}'`,
		"hangs when all is made": real + " create; sleep 1000",
	}
	for ms := 2; ms <= 60; ms += 4 {
		scripts[fmt.Sprintf("is killed after %d ms", ms)] = fmt.Sprintf(
			"exec 9<&0; %s create <&9 >/dev/null & sleep 0.%03d; kill -9 $!; wait; exit 1", real, ms)
	}
	for what, script := range scripts {
		// Deleting is left to the real one.
		script = fmt.Sprintf("#!/bin/sh\n[ $1 = delete ] && exec %s delete\necho $$ >%s/pid\n%s\n", real, lib, script)
		try(t, os.WriteFile(lib+"/carrel-runtime.new", []byte(script), 0o700))
		try(t, os.Rename(lib+"/carrel-runtime.new", lib+"/carrel-runtime"))
		s.Manager.cfg.LibexecDir, s.Manager.cfg.StartTimeout = lib, 2*time.Second
		if c, err := s.Start(t.Context(), s.spec(alice)); err == nil {
			t.Errorf("%s: started pid %d", what, c.InitPID)
			_ = s.Stop(t.Context(), alice)
		}
		s.settle(what, before)
		s.wantNoGroup(what, lib+"/pid")
	}
	s.Manager.cfg.LibexecDir, s.Manager.cfg.StartTimeout = s.cfg.LibexecDir, 0
	s.must(s.start(alice), "true")
}

// wantNoGroup checks that no process is left of the group that the file names.
func (s *stage) wantNoGroup(what, file string) {
	s.t.Helper()
	b, err := os.ReadFile(file)
	try(s.t, err)
	pid, err := strconv.Atoi(strings.TrimSpace(string(b)))
	try(s.t, err)
	if !eventually(func() bool { return errors.Is(unix.Kill(-pid, 0), unix.ESRCH) }) {
		s.t.Errorf("%s: a process that carrel-runtime forked lives on", what)
		_ = unix.Kill(-pid, unix.SIGKILL)
	}
}

// TestLinkComesFirst: the network is made while PID 1 alone is inside.
func TestLinkComesFirst(t *testing.T) {
	s := newStage(t)
	var linked int
	s.Manager.cfg.Link = func(_ context.Context, uid uint32, pid int) error {
		linked = pid
		if s.Find(uid) != nil {
			t.Error("others know of the container before it is linked")
		}
		g, err := cgroup.Load(parent(), groupName(uid))
		if err != nil {
			return err
		}
		if pids, err := g.Procs(); err != nil || !slices.Equal(pids, []int{pid}) {
			t.Errorf("processes %v, %v; want PID 1 alone", pids, err)
		}
		return nil
	}
	if c := s.start(alice); linked != c.InitPID {
		t.Errorf("linked pid %d; want %d", linked, c.InitPID)
	}
}

// TestReadableInit: an init file that a user could read could be taken over
// through ptrace. It refuses to serve.
func TestReadableInit(t *testing.T) {
	s := newStage(t)
	lib := filepath.Join(s.dir, "libexec")
	try(t, os.Mkdir(lib, 0o755))
	for _, name := range []string{"carrel-init", "carrel-runtime"} {
		b, err := os.ReadFile(filepath.Join(scene, "libexec", name))
		try(t, err)
		try(t, os.WriteFile(filepath.Join(lib, name), b, 0o755))
	}
	s.Manager.cfg.LibexecDir = lib
	c, err := s.Start(t.Context(), s.spec(alice))
	if err == nil {
		// It may have been seen alive before it gave up.
		select {
		case <-c.Done():
		case <-time.After(30 * time.Second):
			t.Error("an init that is readable inside serves")
		}
		try(t, s.Stop(t.Context(), alice))
	}
	try(t, os.Chmod(lib+"/carrel-init", 0o111))
	s.must(s.start(alice), "true") // the twin
}
