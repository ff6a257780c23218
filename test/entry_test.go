package test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"

	"github.com/carrel-sh/carrel/test/internal/host"
)

// TestEveryEntry runs a command by each way in and looks where it landed.
func TestEveryEntry(t *testing.T) {
	f := setup(t)
	outside, err := os.Readlink("/proc/self/ns/pid")
	if err != nil {
		t.Fatal(err)
	}
	const command = `echo "$(id -u) $(id -un) $HOME $PWD $(readlink /proc/self/ns/pid)"; cat; echo oops >&2`
	places := make(map[string]string) // account to container
	for _, e := range f.Entries() {
		for _, a := range []host.Account{f.alice, f.bob} {
			t.Run(e.Name+"/"+a.Name[len(a.Name)-1:], func(t *testing.T) {
				cmd := e.Command(a, command)
				cmd.Stdin = strings.NewReader("from\x00stdin\xff")
				r := host.Run(cmd)
				first, rest, _ := strings.Cut(r.Stdout, "\n")
				words := strings.Fields(first)
				if r.Code != 0 || rest != "from\x00stdin\xff" || r.Stderr != "oops\n" || len(words) != 5 {
					t.Fatalf("%v", r)
				}
				want := fmt.Sprintf("%d %s %s %[3]s", a.UID, a.Name, a.Home)
				if got := strings.Join(words[:4], " "); got != want {
					t.Errorf("id and home: %q; want %q", got, want)
				}
				if words[4] == outside {
					t.Errorf("the command ran on the host")
				}
				if places[a.Name] == "" {
					places[a.Name] = words[4]
				}
				if words[4] != places[a.Name] {
					t.Errorf("container %s; want the same as by the first entry, %s", words[4], places[a.Name])
				}
			})
		}
	}
	if places[f.alice.Name] == places[f.bob.Name] {
		t.Errorf("alice and bob share the container %s", places[f.bob.Name])
	}
	// The twin: the oracle does run on the host, so the comparison can fail.
	if r := host.Run(f.sshd.Command(f.plain, place)); strings.TrimSpace(r.Stdout) != outside {
		t.Errorf("plain account: %v; want to be on the host, %s", r, outside)
	}
}

// TestStatus compares how commands end with the oracle, a plain bash account
// entered by the same client.
func TestStatus(t *testing.T) {
	f := setup(t)
	commands := []string{
		"true", "false", "exit 42", "exit 126", "exit 127", "exit 255",
		"no-such-command-anywhere 2>/dev/null", "/etc/passwd 2>/dev/null",
		"kill -TERM $$", "kill -KILL $$", "kill -HUP $$", "kill -INT $$; true", "kill -SEGV $$", "kill -USR1 $$", "kill -PIPE $$",
		"bash -c 'kill -TERM $$' 2>/dev/null", "(exit 3); exit $?", "echo tail; exit 7", "exec sleep 0",
	}
	for _, e := range f.Entries() {
		t.Run(e.Name, func(t *testing.T) {
			for _, command := range commands {
				got := host.Run(e.Command(f.alice, command))
				want := host.Run(oracle(f, e, command))
				if got.Code != want.Code || got.Signal != want.Signal || got.Stdout != want.Stdout || got.Err != nil {
					t.Errorf("%q: %v; a plain account: %v", command, got, want)
				}
			}
		})
	}
}

// oracle returns what does for the plain account what e does for the others.
func oracle(f *fixture, e host.Entry, command string) *exec.Cmd {
	switch e.Name {
	case "direct":
		cmd := exec.Command("/bin/bash", "-c", command)
		cmd.Env, cmd.Dir = f.plain.Environ(), f.plain.Home
		cmd.SysProcAttr = f.Direct(f.plain).SysProcAttr
		return cmd
	case "ForceCommand":
		// The forced command would be carrelsh for this account, too.
		return f.sshd.Command(f.plain, command)
	}
	return e.Command(f.plain, command)
}

// TestExitSignal looks at the message of RFC 4254 section 6.10, which OpenSSH's
// client folds into status 255.
func TestExitSignal(t *testing.T) {
	f := setup(t)
	for _, a := range []host.Account{f.alice, f.plain} {
		client, err := f.sshd.Dial(a)
		if err != nil {
			t.Fatal(err)
		}
		defer client.Close()
		for command, want := range map[string]string{
			"kill -TERM $$": "TERM", "kill -KILL $$": "KILL", "kill -SEGV $$": "SEGV", "exit 143": "",
		} {
			session, err := client.NewSession()
			if err != nil {
				t.Fatal(err)
			}
			var exit *ssh.ExitError
			if err := session.Run(command); !errors.As(err, &exit) {
				t.Fatalf("%s: %q: %v; want an exit status or signal", a.Name, command, err)
			}
			if exit.Signal() != want {
				t.Errorf("%s: %q: exit-signal %q; want %q", a.Name, command, exit.Signal(), want)
			}
		}
	}
}

// TestNoise checks that even the login that starts the container writes
// nothing but what the command wrote: scp, sftp and rsync read it.
func TestNoise(t *testing.T) {
	f := setup(t)
	for _, e := range f.Entries() {
		f.empty(t)
		for _, state := range []string{"cold", "warm"} {
			if r := host.Run(e.Command(f.alice, "printf x")); r.Code != 0 || r.Stdout != "x" || r.Stderr != "" {
				t.Errorf("%s, %s: %v; want only %q", e.Name, state, r, "x")
			}
		}
	}
}

// TestOpaqueCommand hands strings over that somebody on the way might take
// apart, and compares with bash.
func TestOpaqueCommand(t *testing.T) {
	f := setup(t)
	commands := map[string]string{
		"quotes":        `printf '%s|' "a b" 'c"d' e\ f $'g\nh' "$((1+1))" '$HOME' ` + "`echo i`",
		"newlines":      "echo one\n\n# a comment\necho two\ncat <<'E'\n$three 'E\nE\n",
		"invalid UTF-8": "printf %s '\xff\xfe\x80caf\xc3\xa9' | od -An -tx1",
		"empty":         "",
		"blank":         " \t\n ",
		"dash":          "-c 'echo x' 2>/dev/null",
		"operators":     "false || true && (echo a; echo b) | tac; echo $?",
		"glob":          "cd /usr; echo b[i]n ~root {1..3}",
		"long":          "printf %s " + strings.Repeat("0123456789abcdef", 7*1024) + " | wc -c",
		// execve(2) takes 131072 bytes with the NUL at the end.
		"longest": "wc -c <<<" + strings.Repeat("x", 131071-len("wc -c <<<")),
	}
	for name, command := range commands {
		want := host.Run(oracle(f, host.Entry{Name: "direct"}, command))
		for _, e := range f.Entries() {
			if e.Name == "ssh" || e.Name == "ForceCommand" {
				if command == "" || len(command) > 128<<10-4096 || command[0] == '-' {
					// An empty one is a login, ssh(1) takes a leading dash for an option
					// of its own, and a long one does not fit behind sshd's "-c".
					continue
				}
			}
			t.Run(name+"/"+e.Name, func(t *testing.T) {
				got := host.Run(e.Command(f.alice, command))
				if got.Err != nil || got.Code != want.Code || got.Stdout != want.Stdout || (got.Stderr == "") != (want.Stderr == "") {
					t.Errorf("%v; bash: %v", got, want)
				}
			})
		}
	}
}

// TestArguments checks $0 and the positional arguments after -c.
func TestArguments(t *testing.T) {
	f := setup(t)
	r := host.Run(f.Direct(f.alice, "-c", `printf '%s\n' "$0" "$@"`, "name", "a b", "", "-x", "\xff"))
	if want := "name\na b\n\n-x\n\xff\n"; r.Code != 0 || r.Stdout != want {
		t.Errorf("%v; want %q", r, want)
	}
}

// TestHalfClose sends more than a pipe holds and closes stdin before output.
func TestHalfClose(t *testing.T) {
	f := setup(t)
	data := bytes.Repeat([]byte("0123456789abcde\n"), 1<<18) // 4 MiB
	for _, e := range f.Entries() {
		cmd := e.Command(f.alice, "sort | uniq -c | tr -s ' '; echo done; exit 9")
		cmd.Stdin = bytes.NewReader(data)
		if r := host.Run(cmd); r.Code != 9 || r.Stdout != " 262144 0123456789abcde\ndone\n" {
			t.Errorf("%s: %v", e.Name, r)
		}
	}
}

// TestSFTP uses the subsystem and scp, which sshd runs through the shell.
func TestSFTP(t *testing.T) {
	f := setup(t)
	dir := t.TempDir()
	if err := os.WriteFile(dir+"/up", []byte("payload\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, mode := range [][]string{{}, {"-O"}} {
		args := append(f.sshd.Options(), "-P", fmt.Sprint(f.sshd.Port))
		args = append(append(args, mode...), dir+"/up", f.alice.Name+"@127.0.0.1:copied")
		if r := host.Run(exec.Command("scp", args...)); r.Code != 0 {
			t.Fatalf("scp %v: %v", mode, r)
		}
		if got := f.in(t, f.alice, "cat copied; rm copied"); got != "payload" {
			t.Errorf("scp %v: the file inside holds %q", mode, got)
		}
	}
	// Inside it is, and not in the home that the host has.
	if _, err := os.Stat(f.alice.Home + "/copied"); !os.IsNotExist(err) {
		t.Errorf("the host's home has the file: %v", err)
	}
}
