package fidelity

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/carrel-sh/carrel/internal/testneed"
	"github.com/carrel-sh/carrel/test/internal/host"
)

var update = flag.Bool("update", false, "write the README's table and the golden files")

// A fixture is the host that all checks share.
type fixture struct {
	*host.Host
	sshd  *host.SSHD
	doors []*door
	// shells are accounts by the shell that policy gives them.
	shells map[string]host.Account
	// ruled are accounts by the rule that they have, see rules.
	ruled map[string]host.Account
	keys  string // directory of the client's key in other formats

	slots chan struct{} // taken by the doors that are being measured

	mu    sync.Mutex
	locks map[string]*sync.Mutex // by account; taken before a slot
	many  []host.Account         // for the crowd

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
	// Rows wait for one another's doors, not for a processor.
	_ = flag.Set("test.parallel", "100")
	if signal.Ignored(syscall.SIGHUP) { // by nohup(1), and then by every plain account, too
		signal.Notify(make(chan os.Signal, 1), syscall.SIGHUP)
	}
	os.Exit(host.Main("fid", m.Run, furnish))
}

func furnish(_ context.Context, h *host.Host) error {
	f := &fixture{
		Host: h, shells: make(map[string]host.Account), ruled: make(map[string]host.Account),
		slots: make(chan struct{}, atOnce), locks: make(map[string]*sync.Mutex),
	}
	shared = f
	return f.begin()
}

// begin starts the servers, with an account or two at each door.
func (f *fixture) begin() (err error) {
	if f.sshd, err = f.ServeSSH(); err != nil {
		return err
	}
	if err := f.makeDoors(); err != nil {
		return err
	}
	config, err := f.makeRules()
	if err != nil {
		return err
	}
	if _, err = f.Start(host.Options{Config: config}); err != nil {
		return err
	}
	return f.importBare()
}

// wantedShells are what policy gives to an account each. The last one is in
// no image.
var wantedShells = []string{"/usr/bin/zsh", "/usr/bin/fish", "/bin/dash", "/bin/nonesuch"}

// rules are what policy says of an account each.
var rules = map[string]string{
	"bare":    `image = "bare"`,
	"kill":    `linger = "kill"`,
	"noagent": "agent_forwarding = false",
	"env":     `env = { LANG = "de_DE.UTF-8", EDITOR = "vi", GREETING = "good day" }`,
	"greeted": `motd = "DIR/motd"` + "\nlast_login = true",
	// OpenSSH's own tests share files between the client and the session.
	"regress": `home = "host"`,
}

// makeRules makes the accounts that policy names and returns the configuration.
func (f *fixture) makeRules() (string, error) {
	var config strings.Builder
	rule := func(suffix, text string) (host.Account, error) {
		a, err := f.Account(suffix, "")
		fmt.Fprintf(&config, "[[rule]]\nusers = [%q]\n%s\n", a.Name, text)
		return a, err
	}
	for i, shell := range wantedShells {
		a, err := rule(fmt.Sprintf("s%d", i), fmt.Sprintf("shell = %q", shell))
		if err != nil {
			return "", err
		}
		f.shells[shell] = a
	}
	if err := os.WriteFile(filepath.Join(f.Dir, "motd"), []byte("Welcome to \x1b[2J the lab\n"), 0o600); err != nil {
		return "", err
	}
	for name, text := range rules {
		a, err := rule(name[:1], strings.ReplaceAll(text, "DIR", f.Dir))
		if err != nil {
			return "", err
		}
		f.ruled[name] = a
	}
	return config.String(), nil
}

// importBare makes the image bare, which has a shell and nothing else.
func (f *fixture) importBare() error {
	root := filepath.Join(f.Dir, "bare")
	script := `set -e; umask 022; mkdir -p "$0"; cd "$0"; mkdir -p bin etc tmp usr/bin; chmod 1777 tmp
cp /bin/bash bin/bash; ln -s bash bin/sh
for lib in $(ldd /bin/bash | grep -o '/[^ ]*'); do mkdir -p ".${lib%/*}"; cp "$lib" ".$lib"; done
tar cf "$0.tar" .; rm -r "$0"`
	if out, err := exec.Command("/bin/bash", "-c", script, root).CombinedOutput(); err != nil {
		return fmt.Errorf("make image: %w: %s", err, out)
	}
	if r := f.Carrel("image", "import", "bare", root+".tar"); r.Code != 0 {
		return fmt.Errorf("carrel image import: %v", r)
	}
	return nil
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
