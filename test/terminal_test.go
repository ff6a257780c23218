package test

import (
	"os/exec"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/carrel-sh/carrel/test/internal/host"
)

// terminals returns alice at a terminal by every interactive way in.
func terminals(t *testing.T, f *fixture) map[string]*host.Terminal {
	t.Helper()
	all := map[string]*host.Terminal{"direct": terminal(t, f, f.alice, "-l")}
	for name, cmd := range map[string]*exec.Cmd{
		"ssh":          f.sshd.Command(f.alice, "", "-tt"),
		"ForceCommand": f.sshd.Forced(f.alice, "", "-tt"),
		"su -":         exec.Command("su", "-", f.alice.Name),
	} {
		term, err := host.OnTerminal(cmd, 47, 131)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { term.Close() })
		all[name] = term
	}
	return all
}

// TestLogin works at an interactive login shell as a person does.
func TestLogin(t *testing.T) {
	f := setup(t)
	for name, term := range terminals(t, f) {
		t.Run(name, func(t *testing.T) {
			// The very first thing typed, before any prompt was waited for.
			if got := ask(t, term, "stty size", `[\n\r](\d+ \d+)\r`); got != "47 131" {
				t.Errorf("stty size at first: %q; want 47 131", got)
			}
			pts := ask(t, term, "tty", `[\n\r](/dev/pts/\d+|not a tty)\r`)
			if got := ask(t, term, "test -c "+pts+" -a -O "+pts+" && echo it''exists", `[\n\r](\w+)\r`); got != "itexists" {
				t.Errorf("%s inside: %q", pts, got)
			}
			if got := ask(t, term, "echo arg0=$0", `[\r\n]arg0=(\S+)\r`); got != "-bash" {
				t.Errorf("$0 = %q; want -bash", got)
			}
			if got := ask(t, term, "echo $PWD:$SHELL", `[\n\r](/\S+:\S+)\r`); got != f.alice.Home+":/bin/bash" {
				t.Errorf("PWD:SHELL = %q", got)
			}
			if err := term.Resize(50, 140); err != nil {
				t.Fatal(err)
			}
			if got := ask(t, term, "until [ \"$(stty size)\" = '50 140' ]; do sleep 0.1; done; echo re''sized", `[\n\r](\w+)\r`); got != "resized" {
				t.Errorf("after a resize: %q", got)
			}
			// Job control and the keys of a terminal.
			ask(t, term, "sh -c 'echo re''ading; exec cat'", `[\r\n](reading)\r`)
			send(t, term, "\x1a")
			if _, err := term.Expect(`Stopped`); err != nil {
				t.Error(err)
			}
			if got := ask(t, term, "kill %1; sleep 77 & jobs -p | wc -l", `[\n\r](\d+)\r`); got == "0" {
				t.Errorf("jobs: %q", got)
			}
			ask(t, term, "sh -c 'echo sl''eeping; exec sleep 60'", `[\r\n](sleeping)\r`)
			send(t, term, "\x03")
			if got := ask(t, term, "echo st=$?", `[\r\n]st=(\d+)\r`); got != "130" {
				t.Errorf("status after Ctrl-C: %s; want 130", got)
			}
			send(t, term, "kill %2 2>/dev/null; exit 7\n")
			if r := term.Wait(); r.Code != 7 {
				t.Errorf("status of the login: %v; want 7", r)
			}
		})
	}
}

// TestTerminalCommand runs commands, not a login, on a terminal.
func TestTerminalCommand(t *testing.T) {
	f := setup(t)
	tests := []struct{ command, want string }{
		{"stty size", `^47 131\r\n$`},
		{"tty; test -c $(tty) && echo there", `^/dev/pts/\d+\r\nthere\r\n$`},
		{"test -t 0 && test -t 1 && test -t 2 && echo all", `^all\r\n$`},
		{"echo $TERM", `^xterm-256color\r\n$`},
		{"echo error >&2", `^error\r\n$`},
	}
	for _, tt := range tests {
		r := terminal(t, f, f.alice, "-c", tt.command).Wait()
		if r.Code != 0 || !regexp.MustCompile(tt.want).MatchString(r.Stdout) {
			t.Errorf("%q on a terminal: %v; want %s", tt.command, r, tt.want)
		}
	}
	// The twin: without a terminal the same commands say so.
	if r := f.In(f.alice, "tty", nil); r.Code != 1 || !strings.HasPrefix(r.Stdout, "not a tty") {
		t.Errorf("tty without a terminal: %v", r)
	}
}

// TestTerminalRestored looks at the user's own terminal after each way in
// which a session can end.
func TestTerminalRestored(t *testing.T) {
	f := setup(t)
	ends := map[string]func(t *testing.T, term *host.Terminal){
		"exit":             func(t *testing.T, term *host.Terminal) { send(t, term, "exit 0\n") },
		"death by signal":  func(t *testing.T, term *host.Terminal) { send(t, term, "kill -KILL $$\n") },
		"container killed": func(t *testing.T, _ *host.Terminal) { f.empty(t) },
		"carrelsh gets SIGHUP": func(t *testing.T, term *host.Terminal) {
			if err := syscall.Kill(term.Pid(), syscall.SIGHUP); err != nil {
				t.Fatal(err)
			}
		},
	}
	for name, end := range ends {
		t.Run(name, func(t *testing.T) {
			term := terminal(t, f, f.alice, "-l")
			before, err := unix.IoctlGetTermios(int(term.Master().Fd()), unix.TCGETS)
			if err != nil {
				t.Fatal(err)
			}
			if got := ask(t, term, "echo re''ady", `[\n\r](ready)\r`); got != "ready" {
				t.Fatal(got)
			}
			during, err := unix.IoctlGetTermios(int(term.Master().Fd()), unix.TCGETS)
			if err != nil {
				t.Fatal(err)
			}
			if during.Lflag&unix.ICANON != 0 { // the twin: there is something to restore
				t.Errorf("the terminal is not raw in the session")
			}
			end(t, term)
			term.Wait()
			after, err := unix.IoctlGetTermios(int(term.Master().Fd()), unix.TCGETS)
			if err != nil {
				t.Fatal(err)
			}
			if *after != *before {
				t.Errorf("termios %+v; before it was %+v", *after, *before)
			}
		})
	}
}

func send(t *testing.T, term *host.Terminal, text string) {
	t.Helper()
	if err := term.Send(text); err != nil {
		t.Fatal(err)
	}
}
