package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/testscript"
	"github.com/spf13/cobra"

	"github.com/carrel-sh/carrel/internal/testneed"
	"github.com/carrel-sh/carrel/session/admin"
	"github.com/carrel-sh/carrel/session/events"
)

var update = flag.Bool("update", false, "rewrite the golden files")

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"carrel": main, "-carrelsh": fakeCarrelsh})
}

// fakeCarrelsh is what `carrel enter` executes in the tests: it says what it
// was given, and exits with 42.
func fakeCarrelsh() {
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		panic(err)
	}
	for line := range strings.Lines(string(status)) {
		if name, _, _ := strings.Cut(line, ":"); slices.Contains([]string{"Uid", "Gid", "Groups", "Umask", "CapPrm", "CapEff"}, name) {
			fmt.Print(strings.ReplaceAll(line, "\t", " "))
		}
	}
	fmt.Printf("args %q\n", os.Args)
	dir, err := os.Getwd()
	fmt.Println("dir", dir, err)
	fds, err := filepath.Glob("/proc/self/fd/*")
	if err != nil {
		panic(err)
	}
	for _, fd := range fds {
		// What is open beyond 2 was opened by this process' own runtime.
		target, err := os.Readlink(fd)
		own := err != nil || strings.HasPrefix(target, "anon_inode:") || strings.HasPrefix(target, "/proc/") || strings.HasPrefix(target, "/sys/")
		standard := slices.Contains([]string{"0", "1", "2"}, filepath.Base(fd))
		if !own && !standard {
			fmt.Println("leaked", fd, target)
		}
	}
	for _, entry := range os.Environ() {
		fmt.Println("env", entry)
	}
	os.Exit(42)
}

// TestScripts runs the real command in each script. The command "carreld"
// starts a fake one on $WORK/run/admin.sock.
func TestScripts(t *testing.T) {
	runScripts(t, "testdata/script")
}

// TestRootScripts has the scripts that need root.
func TestRootScripts(t *testing.T) {
	testneed.Root(t)
	runScripts(t, "testdata/root")
}

func runScripts(t *testing.T, dir string) {
	testscript.Run(t, testscript.Params{
		Dir:                 dir,
		RequireExplicitExec: true,
		UpdateScripts:       *update,
		Setup: func(env *testscript.Env) error {
			env.Setenv("ESC", "\x1b]0;x\a\u009b")
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"carreld":  fakeDaemon,
			"status":   wantStatus,
			"carrelsh": publicCarrelsh,
			"libexec":  buildLibexec,
		},
	})
}

// wantStatus is "status N carrel args...": the exit status is exactly N.
func wantStatus(ts *testscript.TestScript, _ bool, args []string) {
	err := ts.Exec(args[1], args[2:]...)
	got := "0"
	if err != nil {
		got = strings.TrimPrefix(err.Error(), "exit status ")
	}
	if got != args[0] {
		ts.Fatalf("%q: exit status %s; want %s", args[1:], got, args[0])
	}
}

// publicCarrelsh sets CARRELSH to a copy of this test's program that every
// user may execute, to be called as -carrelsh.
func publicCarrelsh(ts *testscript.TestScript, _ bool, _ []string) {
	own, err := os.ReadFile("/proc/self/exe")
	ts.Check(err)
	dir, err := os.MkdirTemp("", "carrel-test-")
	ts.Check(err)
	ts.Defer(func() { os.RemoveAll(dir) })
	ts.Check(os.Chmod(dir, 0o755))
	path := filepath.Join(dir, "carrelsh")
	ts.Check(os.WriteFile(path, own, 0o700))
	ts.Check(os.Chmod(path, 0o755))
	ts.Setenv("CARRELSH", path)
}

// buildLibexec is "libexec DIR": it builds the image worker into DIR.
func buildLibexec(ts *testscript.TestScript, _ bool, args []string) {
	build := exec.Command("go", "build", "-buildvcs=false", "-o", ts.MkAbs(args[0])+"/", "github.com/carrel-sh/carrel/cmd/carrel-unpack")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	out, err := build.CombinedOutput()
	if err != nil {
		ts.Fatalf("%v: %v\n%s", build, err, out)
	}
}

// fakeDaemon serves the containers of fakeContainers until the script ends.
func fakeDaemon(ts *testscript.TestScript, _ bool, _ []string) {
	dir := ts.MkAbs("run")
	ts.Check(os.MkdirAll(dir, 0o755))
	l, err := admin.Listen(filepath.Join(dir, "admin.sock"))
	ts.Check(err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		s := &admin.Server{Backend: &fakeBackend{list: fakeContainers()}, Version: "v9", PeerUID: uint32(os.Geteuid())}
		_ = s.Serve(ctx, l)
	}()
	ts.Defer(func() { cancel(); <-done })
}

// fakeContainers has what a user and a directory service could smuggle in.
func fakeContainers() []admin.Container {
	started := time.Now().Add(-75 * time.Minute)
	return []admin.Container{
		{
			User: "root", UID: 4000, Image: "host", State: admin.StateRunning, Started: started, Sessions: 2, InitPID: 4321,
			MemoryBytes: 3 << 20, Pids: 5, RangeFirst: 1879113728,
			Limits: admin.Limits{MemoryBytes: 2 << 30, CPUWeight: 100, Pids: 512}, Unenforced: []string{"swap", "cpu quota"},
		},
		{User: "e\x1b]0;vil\a\nroot\u202e", UID: 4001, Image: "deb\u009bian:12", State: "odd\x7f", Started: started, InitPID: 4322},
	}
}

type fakeBackend struct {
	mu   sync.Mutex // carreld acts on many at once
	list []admin.Container
	kept admin.Maintenance
}

func (f *fakeBackend) Containers(context.Context, bool) ([]admin.Container, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.list, nil
}

func (f *fakeBackend) Known() ([]uint32, error) { return []uint32{1, 4000, 4711}, nil }

func (f *fakeBackend) Inspect(_ context.Context, uid uint32) (admin.Detail, error) {
	d := admin.Detail{
		Cgroup: "/carrel/u4000", Layer: "/var/lib/carrel/users/4000/upper", Home: "/root", FreezeAfter: "30m", StopAfter: "never",
		SessionList: []admin.Session{{ID: 1<<63 + 9, PID: 12, Started: time.Now(), Terminal: "/dev/pts/0"}},
		Processes:   []admin.Process{{PID: 4321, Name: "init"}, {PID: 4400, Name: "e\x1b]0;vil\a"}},
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, c := range f.list {
		if c.UID == uid {
			d.Container = c
		}
	}
	return d, nil
}

func (f *fakeBackend) Maintenance(m *admin.Maintenance) (admin.Maintenance, error) {
	if m != nil {
		f.kept = *m
	}
	return f.kept, nil
}

func (f *fakeBackend) Events(ctx context.Context, follow bool, begun func() error, yield func(events.Event) error) error {
	at := time.Date(2026, 11, 21, 6, 0, 0, 0, time.UTC)
	for _, e := range []events.Event{
		{Time: at, Kind: events.Start, User: "bin", UID: 2, Detail: "image host"},
		{Time: at.Add(time.Minute), Kind: events.Login, User: "bin", UID: 2, Session: 1<<63 + 9, Detail: "on a terminal"},
		{Time: time.Now(), Kind: events.Refused, UID: 1, Detail: "e\x1b]0;vil\a"},
	} {
		if err := yield(e); err != nil {
			return err
		}
	}
	if follow {
		return errors.Join(begun(), yield(events.Event{Time: time.Now(), Kind: events.Stop, UID: 1}))
	}
	return nil
}

func (f *fakeBackend) Act(_ context.Context, uid uint32, r admin.Request) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch r.Op {
	case admin.OpStop:
		f.list = slices.DeleteFunc(slices.Clone(f.list), func(c admin.Container) bool { return c.UID == uid })
	case admin.OpKill:
		return r.Signal, nil
	case admin.OpWall:
		if uid == 4001 {
			return 0, errors.New("the container is frozen")
		}
		return len(r.Message), nil
	}
	return 0, nil
}

// TestHelpTexts: every command says what it does, and each page of the manual
// is written.
func TestHelpTexts(t *testing.T) {
	a := app{stdout: os.Stdout, stderr: os.Stderr}
	dir := t.TempDir()
	if status := a.run(t.Context(), []string{"docs", "man", dir}); status != 0 {
		t.Fatalf("docs man: exit status %d", status)
	}
	pages, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	plain := []string{"carrel.1", "carrel-config.1", "carrel-image.1", "carrel-maintenance.1", "carrel-policy.1", "carrel-version.1",
		"carrel-config-check.1", "carrel-policy-explain.1", "carrel-image-ls.1", "carrel-image-rm.1"}
	for _, page := range pages {
		names = append(names, filepath.Base(page))
		if text, err := os.ReadFile(page); err == nil && !slices.Contains(plain, filepath.Base(page)) && !strings.Contains(string(text), ".SH EXAMPLE") {
			t.Errorf("%s has no example", page)
		}
		text, err := os.ReadFile(page)
		if err != nil || !strings.Contains(string(text), ".SH SYNOPSIS") || strings.Contains(string(text), dir) {
			t.Errorf("%s: %v, %.200s", page, err, text)
		}
	}
	want := []string{
		"carrel-config-check.1", "carrel-config.1", "carrel-doctor.1", "carrel-enter.1", "carrel-events.1", "carrel-freeze.1", "carrel-image-import.1", "carrel-image-ls.1", "carrel-image-rm.1",
		"carrel-image.1", "carrel-inspect.1", "carrel-kill.1", "carrel-logs.1", "carrel-maintenance-off.1", "carrel-maintenance-on.1",
		"carrel-maintenance-status.1", "carrel-maintenance.1", "carrel-policy-explain.1", "carrel-policy.1", "carrel-ps.1", "carrel-reset.1", "carrel-rm.1", "carrel-sessions.1", "carrel-status.1", "carrel-stop.1", "carrel-thaw.1", "carrel-top.1", "carrel-version.1", "carrel-wall.1", "carrel.1",
	}
	if diff := cmp.Diff(want, names); diff != "" {
		t.Errorf("pages (-want +got):\n%s", diff)
	}
}

// TestExamples runs every example of the manual pages against a fake carreld:
// each is understood. What needs more than that has tests of its own.
func TestExamples(t *testing.T) {
	dir := t.TempDir()
	l, err := admin.Listen(filepath.Join(dir, "admin.sock"))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = (&admin.Server{Backend: &fakeBackend{list: fakeContainers()}, PeerUID: uint32(os.Geteuid())}).Serve(ctx, l)
	}()
	defer func() { cancel(); <-done }()
	ran := 0
	for _, c := range leaves((&app{}).command()) {
		switch c.Name() {
		case "enter", "doctor", "import":
			continue
		}
		for line := range strings.Lines(c.Example) {
			args := splitLine(t, strings.TrimSpace(line))
			if args[0] != "carrel" {
				t.Errorf("%s: the example %q is not of carrel", c.CommandPath(), line)
				continue
			}
			var stdout, stderr strings.Builder
			a := app{stdin: strings.NewReader(""), stdout: &stdout, stderr: &stderr}
			ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond) // top has patience
			status := a.run(ctx, append([]string{"--run-dir", dir, "--config", dir + "/none"}, args[1:]...))
			cancel()
			if status == exitUsage && !strings.Contains(stderr.String(), "write --yes") {
				t.Errorf("%q is not understood: %s", line, &stderr)
			}
			ran++
		}
	}
	if ran < 15 {
		t.Errorf("only %d examples", ran)
	}
}

// leaves returns the commands that hold no others.
func leaves(c *cobra.Command) []*cobra.Command {
	if !c.HasSubCommands() {
		return []*cobra.Command{c}
	}
	var all []*cobra.Command
	for _, sub := range c.Commands() {
		all = append(all, leaves(sub)...)
	}
	return all
}

// splitLine splits a command line at spaces outside single quotes.
func splitLine(t *testing.T, line string) []string {
	t.Helper()
	var words []string
	for i, part := range strings.Split(line, "'") {
		if i%2 == 1 {
			words = append(words, part)
		} else {
			words = append(words, strings.Fields(part)...)
		}
	}
	return words
}

func TestSize(t *testing.T) {
	for n, want := range map[int64]string{
		0: "0B", 1023: "1023B", 1024: "1.00KiB", 10 << 10: "10.0KiB", 100 << 10: "100KiB", 1023 << 10: "1.00MiB", 1 << 20: "1.00MiB",
		2<<30 - 1: "2.00GiB", 2 << 30: "2.00GiB", 1<<63 - 1: "8.00EiB",
	} {
		if got := size(n); got != want {
			t.Errorf("size(%d) = %q; want %q", n, got, want)
		}
	}
}

func TestAge(t *testing.T) {
	for d, want := range map[time.Duration]string{
		-time.Hour: "0s", 0: "0s", 59 * time.Second: "59s", time.Minute: "1m0s", 75 * time.Minute: "1h15m", 24 * time.Hour: "1d0h",
		100 * 24 * time.Hour: "100d0h",
	} {
		if got := age(d); got != want {
			t.Errorf("age(%v) = %q; want %q", d, got, want)
		}
	}
}
