package test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/carrel-sh/carrel/test/internal/host"
)

// rule returns a configuration in which alice gets the given keys.
func (f *fixture) rule(keys string) host.Options {
	return host.Options{Config: fmt.Sprintf("[[rule]]\nusers = [%q]\n%s\n", f.alice.Name, keys)}
}

// entriesFail checks that each way in reports one and the same failure.
func entriesFail(t *testing.T, f *fixture, a host.Account, status int, sub string) {
	t.Helper()
	for _, e := range f.Entries() {
		wantFailure(t, e.Name, host.Run(e.Command(a, "echo ran")), status, sub)
	}
}

func TestNotRunning(t *testing.T) {
	f := setup(t)
	f.in(t, f.alice, "true") // a container that runs does not help
	if err := f.Stop(); err != nil {
		t.Fatal(err)
	}
	entriesFail(t, f, f.alice, 69, "not running")
	// Nor does a socket that somebody left.
	if err := os.Remove(f.Socket()); err == nil {
		entriesFail(t, f, f.alice, 69, "not running")
	}
	if _, err := f.Start(host.Options{}); err != nil {
		t.Fatal(err)
	}
	if got := f.in(t, f.alice, "echo back"); got != "back" {
		t.Errorf("after the restart: %q", got)
	}
}

func TestRefused(t *testing.T) {
	f := setup(t)
	f.reconfigure(t, f.rule("allow = false\nmessage = \"the course is over\""))
	entriesFail(t, f, f.alice, 77, "the course is over")
	f.in(t, f.bob, "true") // whom no rule names
	// No rule and another login shell, and root.
	wantFailure(t, "plain", f.In(f.plain, "echo ran", nil), 77, "not set up for sessions")
	root := host.Account{Name: "root", Home: "/root", Shell: "/bin/bash"}
	wantFailure(t, "root", f.In(root, "echo ran", nil), 77, "")
}

func TestRuleAdmits(t *testing.T) {
	f := setup(t)
	f.reconfigure(t, host.Options{Config: fmt.Sprintf("[[rule]]\nusers = [%q]\n", f.plain.Name)})
	if got := f.in(t, f.plain, "id -un"); got != f.plain.Name {
		t.Errorf("id -un = %q; want %q", got, f.plain.Name)
	}
}

func TestMissingImage(t *testing.T) {
	f := setup(t)
	f.reconfigure(t, f.rule(`image = "no-such:image"`))
	entriesFail(t, f, f.alice, 66, "image")
	f.in(t, f.bob, "true")
}

func TestMissingShell(t *testing.T) {
	f := setup(t)
	f.reconfigure(t, f.rule(`shell = "/opt/no-such-shell"`))
	// A person is told; a program that reads stderr is left alone.
	told := terminal(t, f, f.alice, "-c", "echo ran in $0").Wait()
	if told.Code != 0 || !strings.Contains(told.Stdout, "not in your container's image") || !strings.Contains(told.Stdout, "ran in bash") {
		t.Errorf("on a terminal: %v; want another shell and a sentence", told)
	}
	if quiet := f.In(f.alice, "echo ran in $0", nil); quiet.Code != 0 || !strings.HasPrefix(quiet.Stdout, "ran in bash") || quiet.Stderr != "" {
		t.Errorf("without a terminal: %v; want another shell and no word", quiet)
	}
}

// TestFullDisk lets carreld's state fill its file system before, and while,
// a container runs.
func TestFullDisk(t *testing.T) {
	f := setup(t)
	state := filepath.Join(f.Dir, "small")
	if err := os.MkdirAll(state, 0o711); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount("tmpfs", state, "tmpfs", 0, "size=32m,nr_inodes=20k,mode=711"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(state, 0); err != nil {
			t.Error(err)
		}
	})
	f.reconfigure(t, host.Options{StateDir: state})
	filler := filepath.Join(state, "filler")
	if r := host.Run(exec.Command("dd", "if=/dev/zero", "of="+filler, "bs=4k")); !strings.Contains(r.Stderr, "No space left") {
		t.Fatalf("fill: %v", r)
	}
	entriesFail(t, f, f.alice, 73, "disk")
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	// Nothing is left behind that is in the way, and nothing is half made.
	f.in(t, f.alice, "echo kept >~/kept; cat ~/kept")
	// Inodes.
	for i := range 30_000 {
		if err := os.WriteFile(fmt.Sprintf("%s/f%d", state, i), nil, 0o600); err != nil {
			break
		}
	}
	wantFailure(t, "no inodes", f.In(f.bob, "echo ran", nil), 73, "disk")
	if got := f.in(t, f.alice, "cat ~/kept"); got != "kept" {
		t.Errorf("a running container on the full disk: %q", got)
	}
}

func TestHome(t *testing.T) {
	f := setup(t)
	carol := f.account(t, "h", "")
	other := f.bob
	aside := carol.Home + ".aside"
	f.reconfigure(t, host.Options{Config: fmt.Sprintf("[[rule]]\nusers = [%q]\nhome = \"host\"\n", carol.Name)})
	if err := carol.WriteHome("mine", "hers\n"); err != nil {
		t.Fatal(err)
	}
	// The twin of what follows: an ordinary home is used, and is the host's.
	if got := f.in(t, carol, "cat ~/mine; echo new >~/new; stat -c %U ~ ~/new"); got != "hers\n"+carol.Name+"\n"+carol.Name {
		t.Errorf("the host's home inside: %q", got)
	}
	if info, err := os.Stat(carol.Home + "/new"); err != nil || info.Sys().(*syscall.Stat_t).Uid != carol.UID {
		t.Errorf("what was made inside, on the host: %v, %v", info, err)
	}
	tests := map[string]func() error{
		"missing":         func() error { return nil },
		"symlink":         func() error { return os.Symlink(aside, carol.Home) },
		"symlink to /etc": func() error { return os.Symlink("/etc", carol.Home) },
		"another's":       func() error { return mkdirAs(carol.Home, other) },
		"root's":          func() error { return os.Mkdir(carol.Home, 0o777) },
		"a file":          func() error { return os.WriteFile(carol.Home, nil, 0o600) },
		"a FIFO":          func() error { return syscall.Mkfifo(carol.Home, 0o600) },
	}
	if err := os.Rename(carol.Home, aside); err != nil {
		t.Fatal(err)
	}
	for name, make := range tests {
		t.Run(name, func(t *testing.T) {
			if r := f.Carrel("stop", carol.Name); r.Code != 0 {
				t.Fatal(r)
			}
			if err := make(); err != nil {
				t.Fatal(err)
			}
			wantFailure(t, name, f.In(carol, "echo ran", nil), 79, "home")
			if err := os.RemoveAll(carol.Home); err != nil {
				t.Fatal(err)
			}
		})
	}
	if err := os.Rename(aside, carol.Home); err != nil {
		t.Fatal(err)
	}
}

func mkdirAs(dir string, a host.Account) error {
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	return os.Chown(dir, int(a.UID), int(a.GID))
}
