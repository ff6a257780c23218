package test

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/carrel-sh/carrel/internal/testneed"
	"github.com/carrel-sh/carrel/test/internal/host"
)

// examples returns the fenced blocks of the README that a comment names, as
// in "<!-- test:install -->".
func examples(t *testing.T) map[string]string {
	t.Helper()
	text, err := os.ReadFile("../README.md")
	if err != nil {
		t.Fatal(err)
	}
	blocks := make(map[string]string)
	for _, m := range regexp.MustCompile("(?s)<!-- test:([a-z]+) -->\n```[a-z]+\n(.*?)```\n").FindAllStringSubmatch(string(text), -1) {
		blocks[m[1]] = m[2]
	}
	return blocks
}

// TestReadme does what the README tells an administrator to do, word for word,
// on a machine that is a copy of this one.
func TestReadme(t *testing.T) {
	testneed.Root(t)
	for _, tool := range []string{"unshare", "sshd", "ssh-keygen", "useradd"} {
		testneed.Tool(t, tool)
	}
	if _, err := os.Stat("/var/lib/carrel"); err == nil {
		testneed.Unmet(t, "a Carrel is installed on this machine")
	}
	blocks := examples(t)
	for _, name := range []string{"demo", "install", "login", "admin", "config"} {
		if blocks[name] == "" {
			t.Fatalf("the README has no example %q", name)
		}
	}
	source, err := filepath.Abs("..")
	if err != nil {
		t.Fatal(err)
	}
	commands := local(blocks["install"]) +
		"until [ -S /run/carrel/login.sock ]; do sleep 0.1; done\n" +
		blocks["login"] + // an interactive login ends at the end of its input
		blocks["admin"] +
		"cat >/etc/carrel/carrel.toml <<'END'\n" + blocks["config"] + "END\n" +
		"carrel config check\n" +
		"id alice; ! id carol\n" // the twin of what follows
	cmd := exec.Command("testdata/machine.sh", source, "set -e\n"+commands)
	// The binaries go where nobody else's are.
	cmd.Env = append(os.Environ(), "BIN="+t.TempDir())
	r := host.Run(cmd)
	for _, want := range []string{"uid=", "/home/alice", "alice", "bob-"} {
		if !strings.Contains(r.Stdout, want) {
			t.Errorf("the README's commands do not print %q", want)
		}
	}
	if r.Code != 0 || r.Err != nil {
		t.Errorf("the README's commands: %v\n%s", r, r.Stderr)
	}
	if out := host.Run(exec.Command("id", "alice")); out.Code == 0 {
		t.Error("alice is on this machine: the copy leaked")
	}
}

// local moves what the README installs to where machine.sh has room for it.
func local(commands string) string {
	commands = strings.ReplaceAll(commands, "PREFIX=/usr", "PREFIX=/usr/local")
	return strings.ReplaceAll(commands, "/usr/bin/carrelsh", "/usr/local/bin/carrelsh")
}

// TestReadmeDemo runs the README's first command as it stands there.
func TestReadmeDemo(t *testing.T) {
	testneed.Root(t)
	cmd := exec.Command("/bin/bash", "-c", "cd .. && "+strings.TrimSpace(examples(t)["demo"]))
	cmd.Env = append(os.Environ(), "SUDO_USER=")
	r := host.Run(cmd)
	if r.Code != 0 || !strings.HasPrefix(r.Stdout, "uid=") || !strings.Contains(r.Stdout, "ps aux") {
		t.Errorf("%v", r)
	}
}
