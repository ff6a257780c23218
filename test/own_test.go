package test

import (
	"os"
	"strings"
	"testing"

	"github.com/carrel-sh/carrel/test/internal/host"
)

// TestOwnCommands has a user ask about their own container over their own
// login, at every door, and reset what they broke.
func TestOwnCommands(t *testing.T) {
	f := setup(t)
	f.empty(t)
	for _, e := range f.Entries() {
		if r := host.Run(e.Command(f.alice, "carrel status")); r.Code != 0 || !strings.Contains(r.Stdout, "You have no container now") {
			t.Errorf("%s: carrel status before the first login: %v", e.Name, r)
		}
	}
	term := terminal(t, f, f.alice, "-l")
	pts := ask(t, term, "tty", `[\n\r](/dev/pts/\d+)\r`)
	f.in(t, f.bob, "true")
	for _, e := range f.Entries() {
		r := host.Run(e.Command(f.alice, "carrel status"))
		if r.Code != 0 || r.Stderr != "" {
			t.Errorf("%s: carrel status: %v", e.Name, r)
		}
		wantLine(t, e.Name, r.Stdout, `state +running, since .*`)
		wantLine(t, e.Name, r.Stdout, `memory +.* of 2 GiB`)
		wantLine(t, e.Name, r.Stdout, `sessions +1`)
		r = host.Run(e.Command(f.alice, "carrel sessions"))
		wantLine(t, e.Name, r.Stdout, `2\S+ \S+ +`+pts+` +\d+`)
		if n := strings.Count(r.Stdout, "\n"); r.Code != 0 || n != 2 {
			t.Errorf("%s: carrel sessions: %v", e.Name, r)
		}
	}
	// On a terminal, too.
	if r := terminal(t, f, f.alice, "-c", "carrel sessions").Wait(); r.Code != 0 || !strings.Contains(r.Stdout, pts+" ") || !strings.Contains(r.Stdout, "\r\n") {
		t.Errorf("carrel sessions on a terminal: %v", r)
	}
	// Nothing that only looks like it.
	if r := f.In(f.alice, "carrel status; echo ran", nil); !strings.Contains(r.Stdout, "ran") {
		t.Errorf("a command line that begins like one of ours: %v", r)
	}
	// From inside: by the program that every container has, and by carrel(1) of
	// the image host.
	binary, err := os.Open(f.Path("carrel"))
	if err != nil {
		t.Fatal(err)
	}
	defer binary.Close()
	if r := f.In(f.alice, "cat >~/carrel && chmod +x ~/carrel", binary); r.Code != 0 {
		t.Fatal(r)
	}
	for _, program := range []string{"/run/.carrel/bin/carrel", "~/carrel"} {
		r := f.In(f.alice, program+" status; echo st=$?", nil)
		if !strings.HasSuffix(r.Stdout, "st=0\n") || r.Stderr != "" {
			t.Errorf("%s status inside: %v", program, r)
		}
		wantLine(t, program, r.Stdout, `state +running, since .*`)
		wantLine(t, program, f.in(t, f.alice, program+" sessions"), `2\S+ \S+ +`+pts+` +\d+`)
		if r := f.In(f.alice, program+" reset", nil); r.Code != 1 || !strings.Contains(r.Stdout, "carrel reset --yes") {
			t.Errorf("%s reset inside: %v", program, r)
		}
	}
	if r := f.In(f.alice, "/run/.carrel/bin/carrel explode", nil); r.Code != 64 || !strings.HasPrefix(r.Stdout, "usage: ") {
		t.Errorf("an unknown command inside: %v", r)
	}
	// A shell that nothing gets past, and a way out.
	f.in(t, f.alice, "echo 'exit 3' >/tmp/x; mkdir -p /tmp/keep; echo home >~/own")
	here := f.in(t, f.alice, place)
	if r := f.In(f.alice, "carrel reset", nil); r.Code != 1 || !strings.Contains(r.Stdout, "carrel reset --yes") {
		t.Errorf("carrel reset: %v", r)
	}
	if got := f.in(t, f.alice, place); got != here {
		t.Error("carrel reset without a yes did something")
	}
	f.carrel(t, "freeze", f.bob.Name)
	if r := f.In(f.alice, "carrel reset --yes", nil); r.Code != 0 || !strings.HasPrefix(r.Stdout, "Done") {
		t.Errorf("carrel reset --yes: %v", r)
	}
	if r := term.Wait(); r.Code != 74 {
		t.Errorf("the session in the container that was reset: %v", r)
	}
	if got := f.in(t, f.alice, "ls /tmp/x /tmp/keep ~/own 2>/dev/null; true"); got != f.alice.Home+"/own" {
		t.Errorf("after the reset there is %q; want what is in the home", got)
	}
	wantLine(t, "logs", f.carrel(t, "logs", f.alice.Name), `.* reset: by the user`)
	// Bob's is as it was: whose container it is, is not in the command.
	wantLine(t, "ps", f.carrel(t, "ps"), f.bob.Name+` .* suspended .*`)
	if r := f.In(f.bob, "carrel sessions", nil); r.Code != 1 || !strings.Contains(r.Stdout, "suspended") {
		t.Errorf("carrel sessions in a suspended container: %v", r)
	}
	f.empty(t)
	// Where policy says nothing of it, the shell inside gets it.
	f.reconfigure(t, f.rule("self_service = []"))
	if r := f.In(f.alice, "carrel status", nil); strings.Contains(r.Stdout, "state ") {
		t.Errorf("carrel status against policy: %v", r)
	}
	if r := f.In(f.alice, "/run/.carrel/bin/carrel status", nil); r.Code != 77 || !strings.Contains(r.Stdout, "does not allow") {
		t.Errorf("carrel status against policy, from inside: %v", r)
	}
}
