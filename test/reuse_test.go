package test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/carrel-sh/carrel/test/internal/host"
)

// renamed gives an account's uid to another name until the test ends.
func renamed(t *testing.T, a host.Account, name string) host.Account {
	t.Helper()
	rename := func(from, to string) {
		within(t, 10*time.Second, "usermod -l "+to+" "+from, func() bool { // it may find the files locked
			out, err := exec.Command("usermod", "-l", to, from).CombinedOutput()
			if err != nil {
				t.Logf("usermod: %v: %s", err, out)
			}
			return err == nil
		})
	}
	former := a.Name
	rename(former, name)
	t.Cleanup(func() { rename(name, former) })
	a.Name = name
	return a
}

// look says which container a session is in, whose it is, and what of the owner
// is there.
const look = place + "; id -un; cat ~/secret 2>/dev/null; pgrep -fxc 'sleep 1000'; true"

// TestReusedUID has a uid change hands twice: while something of its former
// owner runs, and after that one gave up their layer. The next one gets into
// nothing of theirs.
func TestReusedUID(t *testing.T) {
	f := setup(t)
	carol := f.account(t, "u", "")
	const leave = "echo hers >~/secret; echo it >/tmp/evidence; setsid sleep 1000 >/dev/null 2>&1 </dev/null & " + place
	here := f.in(t, carol, leave)
	if got, want := f.in(t, carol, look), here+"\n"+carol.Name+"\nhers\n1"; got != want {
		t.Fatalf("the owner finds %q; want %q", got, want)
	}
	dave := renamed(t, carol, carol.Name+"d")
	if r := f.In(dave, "carrel status", nil); r.Code != 0 || r.Stdout != "You have no container now; your next login starts one.\n" {
		t.Errorf("carrel status of the next owner: %v", r)
	}
	if r := f.In(dave, "carrel reset --yes", nil); r.Code != 0 || strings.HasPrefix(r.Stdout, "Done") {
		t.Errorf("carrel reset --yes of the next owner: %v", r)
	}
	there := f.in(t, dave, place)
	if got, want := f.in(t, dave, look), there+"\n"+dave.Name+"\n0"; got != want || there == here {
		t.Errorf("the next owner finds %q in %s; want %q, and not in %s", got, there, want, here)
	}

	aside, err := filepath.Glob(filepath.Join(f.StateDir, "users", fmt.Sprint(carol.UID)+".former-*", "upper", "tmp", "evidence"))
	if err != nil || len(aside) != 1 {
		t.Errorf("of the former owner's layer there is %q, %v; want it put aside", aside, err)
	}

	f.in(t, dave, leave)
	for range 2 {
		if r := f.In(dave, "carrel reset --yes", nil); r.Code != 0 {
			t.Fatalf("carrel reset --yes: %v", r)
		}
		if got := f.in(t, dave, "cat ~/secret"); got != "hers" {
			t.Fatalf("after a reset, its owner finds %q in the home", got)
		}
	}
	if r := f.In(dave, "carrel reset --yes", nil); r.Code != 0 {
		t.Fatalf("carrel reset --yes: %v", r)
	}
	erin := renamed(t, dave, carol.Name+"e")
	there = f.in(t, erin, place)
	if got, want := f.in(t, erin, look), there+"\n"+erin.Name+"\n0"; got != want {
		t.Errorf("who comes after a reset finds %q; want %q", got, want)
	}
}

// TestSuspendedReset: whom root suspended does not get out of it by a reset.
func TestSuspendedReset(t *testing.T) {
	f := setup(t)
	f.empty(t)
	here := f.in(t, f.alice, "echo it >/tmp/evidence; "+place)
	f.carrel(t, "freeze", f.alice.Name)
	const sentence = "your container has been suspended; please ask the administrator"
	wantFailure(t, "a login", f.In(f.alice, "true", nil), 77, sentence)
	for _, command := range []string{"carrel reset", "carrel reset --yes"} {
		if r := f.In(f.alice, command, nil); r.Code != 77 || r.Stdout != "carrel: "+sentence+"\n" {
			t.Errorf("%s: %v; want it refused as a login is", command, r)
		}
	}
	wantFailure(t, "a login afterwards", f.In(f.alice, "true", nil), 77, sentence)
	f.carrel(t, "thaw", f.alice.Name)
	if got := f.in(t, f.alice, place+"; cat /tmp/evidence"); got != here+"\nit" {
		t.Errorf("thawed, it is %q; want %q and what was there", got, here)
	}
	// The twin: whom root does not suspend can.
	if r := f.In(f.alice, "carrel reset --yes", nil); r.Code != 0 {
		t.Errorf("carrel reset --yes: %v", r)
	}
	if got := f.in(t, f.alice, "cat /tmp/evidence 2>/dev/null; true"); got != "" {
		t.Errorf("after the reset there is %q", got)
	}
}

// TestLoginDuringFarewell has a user log in when an idle container has just been
// bidden farewell: the session lasts, and is in the next container.
func TestLoginDuringFarewell(t *testing.T) {
	f := setup(t)
	carol := f.account(t, "w", "")
	f.reconfigure(t, host.Options{Config: fmt.Sprintf("[[rule]]\nusers = [%q]\n[rule.idle]\nfreeze = \"never\"\nstop = \"10s\"\n", carol.Name)})
	// What gets SIGHUP, and takes all the time that it is given.
	here := f.in(t, carol, `setsid sh -c 'trap "echo hup >>~/hup" HUP; while :; do sleep 1000 & wait; done' >/dev/null 2>&1 </dev/null & `+place)
	home := filepath.Join(f.StateDir, "homes", fmt.Sprint(carol.UID))
	within(t, idleWait, "the farewell begins", func() bool { _, err := os.Stat(filepath.Join(home, "hup")); return err == nil })
	if got := f.in(t, carol, "sleep 5; cat ~/hup; "+place); !strings.HasPrefix(got, "hup\n") || strings.HasSuffix(got, "\n"+here) {
		t.Errorf("a login during the farewell: %q; want it in another container than %s", got, here)
	}
	wantLine(t, "logs", f.carrel(t, "logs", carol.Name), `.* stop: not used for 10s`)
}
