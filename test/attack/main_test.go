package attack

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/carrel-sh/carrel/internal/testneed"
	"github.com/carrel-sh/carrel/test/internal/host"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// A fixture is the host that the tests share.
type fixture struct {
	*host.Host
	alice, bob host.Account
	intruder   string // path of the program on the host
}

// shared is nil where the tests cannot run.
var shared *fixture

// limits are small, so that they are reached soon.
const limits = "[limits]\nmemory = \"200MiB\"\npids = 120\n"

func TestMain(m *testing.M) { os.Exit(host.Main("attack", m.Run, furnish)) }

func furnish(ctx context.Context, h *host.Host) (err error) {
	f := &fixture{Host: h, intruder: filepath.Join(h.Dir, "intruder")}
	build := exec.CommandContext(ctx, "go", "build", "-buildvcs=false", "-o", f.intruder, "./intruder")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("build intruder: %w\n%s", err, out)
	}
	if f.alice, err = h.Account("a", ""); err != nil {
		return err
	}
	if f.bob, err = h.Account("b", ""); err != nil {
		return err
	}
	_, err = h.Start(host.Options{Config: limits})
	shared = f
	return err
}

// setup returns the shared host, or stops the test.
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

// empty stops all containers.
func (f *fixture) empty(t *testing.T) {
	t.Helper()
	if r := f.Carrel("stop", "--all"); r.Code != 0 || r.Err != nil {
		t.Fatalf("carrel stop --all: %v", r)
	}
}

// in runs a command in a session, which must succeed, and returns its output.
func (f *fixture) in(t *testing.T, a host.Account, command string) string {
	t.Helper()
	r := f.In(a, command, nil)
	if r.Code != 0 || r.Err != nil {
		t.Fatalf("%s: %q: %v", a.Name, command, r)
	}
	return strings.TrimSuffix(r.Stdout, "\n")
}

// arm puts the intruder into a user's home, and returns its path inside.
func (f *fixture) arm(t *testing.T, a host.Account) string {
	t.Helper()
	program, err := os.ReadFile(f.intruder)
	if err != nil {
		t.Fatal(err)
	}
	r := f.In(a, "cat >~/intruder.new && chmod 755 ~/intruder.new && mv ~/intruder.new ~/intruder", bytes.NewReader(program))
	if r.Code != 0 || r.Err != nil {
		t.Fatalf("arm %s: %v", a.Name, r)
	}
	return filepath.Join(a.Home, "intruder")
}

// attack runs the intruder in a session of the account.
func (f *fixture) attack(t *testing.T, a host.Account, args string) results {
	t.Helper()
	return parse(t, f.In(a, f.arm(t, a)+" "+args, nil))
}

// onHost runs it on the host, as root or another account.
func (f *fixture) onHost(t *testing.T, as *host.Account, args ...string) results {
	t.Helper()
	cmd := exec.Command(f.intruder, args...)
	cmd.Env = []string{}
	if as != nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: as.Credential()}
	}
	return parse(t, host.Run(cmd))
}

// asContainerRoot runs it as root of the user's container, with every
// capability there and no filter: the worst that a bug of the parts above the
// kernel could hand to a user.
func (f *fixture) asContainerRoot(t *testing.T, a host.Account, args ...string) results {
	t.Helper()
	path := f.arm(t, a)
	return parse(t, host.Run(f.enter(t, a, append([]string{path}, args...)...)))
}

func (f *fixture) enter(t *testing.T, a host.Account, args ...string) *exec.Cmd {
	t.Helper()
	in := []string{"-t", strconv.Itoa(f.initOf(t, a).Pid), "-U", "-m", "-p", "-n", "-i", "-u", "-S", "0", "-G", "0", "--"}
	cmd := exec.Command(testneed.Tool(t, "nsenter"), append(in, args...)...)
	cmd.Env = []string{"PATH=/usr/bin:/bin"}
	return cmd
}

// initOf returns PID 1 of the user's container.
func (f *fixture) initOf(t *testing.T, a host.Account) host.Process {
	t.Helper()
	f.in(t, a, "true")
	inits, err := f.Inits()
	if err != nil {
		t.Fatal(err)
	}
	suffix := "/u" + strconv.Itoa(int(a.UID)) + "/"
	for _, p := range inits {
		if slices.ContainsFunc(p.Cgroups, func(c string) bool { return strings.Contains(c+"/", suffix) }) {
			return p
		}
	}
	t.Fatalf("no init of %s among %+v", a.Name, inits)
	return host.Process{}
}

// results are what became of each attempt.
type results map[string]string

func parse(t *testing.T, r host.Result) results {
	t.Helper()
	if r.Code != 0 || r.Err != nil || r.Stderr != "" {
		t.Fatalf("intruder: %v", r)
	}
	all := make(results)
	for line := range strings.Lines(r.Stdout) {
		line = strings.TrimSuffix(line, "\n")
		if i := strings.LastIndexByte(line, ' '); i > 0 {
			all[line[:i]] = line[i+1:]
		}
	}
	if len(all) == 0 {
		t.Fatal("the intruder tried nothing")
	}
	return all
}

// wantDenied checks that each attempt was refused, but the ones named.
func (r results) wantDenied(t *testing.T, who string, but ...string) {
	t.Helper()
	for what, got := range r {
		denied := got == "EPERM" || got == "EACCES" || got == "ENOSYS" || got == "ENOENT" && strings.HasPrefix(what, "link ")
		if !denied && !slices.Contains(but, what) {
			t.Errorf("%s: %s: %s; want it refused", who, what, got)
		}
	}
}

// wantAllowed is its twin.
func (r results) wantAllowed(t *testing.T, who string, names ...string) {
	t.Helper()
	for _, name := range names {
		if got := r[name]; got == "EPERM" || got == "EACCES" || got == "" {
			t.Errorf("%s: %s: %q; want it allowed, or the test proves nothing", who, name, got)
		}
	}
}

// eventually polls ok until it is true, or half a minute is over, which only
// matters when something is broken.
func eventually(ok func() bool) bool {
	for end := time.Now().Add(30 * time.Second); !ok(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			return false
		}
	}
	return true
}

// background starts a command in a session that lives until stop is called,
// and returns when its output has the word ready.
func (f *fixture) background(t *testing.T, a host.Account, command, ready string) (stop func() string) {
	t.Helper()
	cmd := f.Direct(a, "-c", command)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out := filepath.Join(t.TempDir(), "out")
	file, err := os.Create(out)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	cmd.Stdout, cmd.Stderr = file, file
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	read := func() string {
		b, err := os.ReadFile(out)
		if err != nil {
			t.Error(err)
		}
		return string(b)
	}
	ended := make(chan struct{})
	go func() {
		_ = cmd.Wait()
		close(ended)
	}()
	var once bool
	stop = func() string {
		if !once {
			once = true
			in.Close()
			select {
			case <-ended:
			case <-time.After(20 * time.Second):
				_ = cmd.Process.Kill()
				<-ended
			}
		}
		return read()
	}
	t.Cleanup(func() { stop() })
	if !eventually(func() bool { return strings.Contains(read(), ready) }) {
		t.Fatalf("%q: output %q; want %q in it", command, read(), ready)
	}
	return stop
}
