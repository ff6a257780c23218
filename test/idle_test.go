package test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/carrel-sh/carrel/test/internal/host"
)

// idle is longer than any of these containers takes to be frozen or stopped:
// ten seconds, carreld's looks every five, and a warning in between.
const idleWait = 40 * time.Second

// TestIdle has nobody use three containers: one is frozen and thawed, one is
// stopped, and one only seems idle.
func TestIdle(t *testing.T) {
	f := setup(t)
	carol := f.account(t, "i", "")
	rule := "[[rule]]\nusers = [%q]\n[rule.idle]\nfreeze = %q\nstop = %q\n"
	config := fmt.Sprintf(rule, f.alice.Name, "10s", "never") + fmt.Sprintf(rule, f.bob.Name, "10s", "15s") + fmt.Sprintf(rule, carol.Name, "never", "10s")
	f.reconfigure(t, host.Options{Config: config})
	since := time.Now()
	alice, stopped := terminal(t, f, f.alice, "-l"), terminal(t, f, carol, "-l")
	here := ask(t, alice, place, `[\n\r](pid:\[\d+\])\r`)
	send(t, alice, "sleep 1000 &\n")
	ask(t, stopped, "trap 'echo s''aved >~/note' HUP; echo re''ady", `[\n\r](ready)\r`)
	// Next to nothing, but not nothing.
	f.in(t, f.bob, "setsid sh -c 'while :; do head -c 200000 /dev/zero >/dev/null; sleep 0.5; done' >/dev/null 2>&1 </dev/null &")

	if _, err := alice.Expect(`carrel: nobody has used this container.*stands still`); err != nil {
		t.Error(err)
	}
	frozen := func() bool { return strings.Contains(line(f.Carrel("ps").Stdout, f.alice.Name), " frozen ") }
	within(t, idleWait, "alice's container is frozen", frozen)
	if ps := line(f.carrel(t, "ps"), f.bob.Name); !strings.Contains(ps, " running ") {
		t.Errorf("a container that takes CPU time is %q", ps)
	}
	if _, err := stopped.Expect(`carrel: nobody has used this container.*it stops`); err != nil {
		t.Error(err)
	}
	if r := stopped.Wait(); r.Err != nil {
		t.Errorf("the session in the stopped container: %v", r)
	}
	within(t, idleWait, "carol's container is stopped", func() bool { return line(f.Carrel("ps").Stdout, carol.Name) == "" })
	if got := f.in(t, carol, "cat ~/note"); got != "saved" {
		t.Errorf("the shell could not say good-bye: %q", got)
	}

	// A daemon that adopts it knows; a key typed in the open session thaws it.
	f.Daemon().Kill()
	if _, err := f.Start(host.Options{Config: config}); err != nil {
		t.Fatal(err)
	}
	if !frozen() {
		t.Error("after a restart of carreld the container is not frozen")
	}
	if got := ask(t, alice, "echo aw''ake", `[\n\r](awake)\r`); got != "awake" {
		t.Errorf("typed into a frozen container: %q", got)
	}
	if frozen() {
		t.Error("the container answers and is said to be frozen")
	}

	// Frozen again, and thawed by a login.
	within(t, idleWait, "alice's container is frozen again", frozen)
	begin := time.Now()
	if again := f.in(t, f.alice, place); again != here {
		t.Errorf("the login is in %s; the frozen container was %s", again, here)
	}
	t.Logf("a login into a frozen container took %v", time.Since(begin))
	if again := f.in(t, f.alice, "pgrep -fxc 'sleep 1000'"); again != "1" {
		t.Errorf("what ran before is there %s times", again)
	}
	if ps := line(f.carrel(t, "ps"), f.bob.Name); !strings.Contains(ps, " running ") {
		t.Errorf("a container that takes CPU time is %q", ps)
	}
	events := f.carrel(t, "logs", "--since", since.Format(time.RFC3339Nano), f.alice.Name, carol.Name)
	for _, want := range []string{
		f.alice.Name + ` +freeze: not used for 10s`, f.alice.Name + ` +thaw: the user is there`, f.alice.Name + ` +thaw: login`,
		carol.Name + ` +stop: not used for 10s`,
	} {
		wantLine(t, "logs", events, `.*  `+want)
	}
}

// line returns the line of a text that begins with a word, "" if there is none.
func line(text, first string) string {
	for l := range strings.Lines(text) {
		if strings.HasPrefix(l, first+" ") {
			return l
		}
	}
	return ""
}

// TestLimitsExplained runs out of memory and of processes, and is told.
func TestLimitsExplained(t *testing.T) {
	f := setup(t)
	f.reconfigure(t, f.rule("[rule.limits]\nmemory = \"96MiB\"\npids = 40"))
	const hog = "head -c 300M /dev/zero | tail -c 290M | wc -c"
	const told = `carrel: your processes were stopped: memory limit 96 MiB reached\r`
	// Nobody is at a terminal: the next login is told, once.
	f.In(f.alice, hog, nil)
	within(t, 10*time.Second, "the kill is noted", func() bool {
		return strings.Contains(f.Carrel("logs", "--event", "oom", f.alice.Name).Stdout, "memory limit 96 MiB reached")
	})
	term := terminal(t, f, f.alice, "-l")
	if _, err := term.Expect(told); err != nil {
		t.Error(err)
	}
	// An open terminal is told at once.
	send(t, term, hog+"\n")
	if _, err := term.Expect(told); err != nil {
		t.Error(err)
	}
	ask(t, term, "for i in {1..60}; do sleep 8 & done 2>/dev/null", `(process limit 40 reached)`)
	send(t, term, "exit\n")
	if r := term.Wait(); strings.Count(r.Stdout, "memory limit") != 2 {
		t.Errorf("told of memory %d times; want 2: %q", strings.Count(r.Stdout, "memory limit"), r.Stdout)
	}
	// Neither what a command prints nor another user is concerned.
	if got := f.in(t, f.alice, "echo clean"); got != "clean" {
		t.Errorf("a command prints %q", got)
	}
	if got := f.carrel(t, "logs", "--event", "oom", f.bob.Name); got != "" {
		t.Errorf("bob is said to have hit a limit: %s", got)
	}
}
