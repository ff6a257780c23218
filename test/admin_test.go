package test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/carrel-sh/carrel/test/internal/host"
)

// carrel runs the administrator's command, which must succeed, and returns
// what it printed.
func (f *fixture) carrel(t *testing.T, args ...string) string {
	t.Helper()
	r := f.Carrel(args...)
	if r.Code != 0 || r.Err != nil {
		t.Fatalf("carrel %q: %v", args, r)
	}
	return r.Stdout
}

// wantLine checks that a text has a line that matches.
func wantLine(t *testing.T, what, text, pattern string) {
	t.Helper()
	if !regexp.MustCompile(`(?m)^` + pattern + `$`).MatchString(text) {
		t.Errorf("%s: no line matches %q in\n%s", what, pattern, text)
	}
}

// within polls ok for some time.
func within(t *testing.T, d time.Duration, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(d); !ok(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(end) {
			t.Errorf("%s: not within %v", what, d)
			return
		}
	}
}

// TestTopAndInspect look at a container that works and has sessions.
func TestTopAndInspect(t *testing.T) {
	f := setup(t)
	f.empty(t)
	term := terminal(t, f, f.alice, "-l")
	pts := ask(t, term, "tty", `[\n\r](/dev/pts/\d+)\r`)
	send(t, term, "timeout 20 sh -c 'while :; do :; done' & sleep 1000 &\n")
	f.in(t, f.bob, "true")
	top := f.carrel(t, "top", "--once", "--interval", "1s")
	lines := strings.Split(top, "\n")
	if len(lines) < 3 || !strings.HasPrefix(lines[1], f.alice.Name+" ") {
		t.Fatalf("carrel top: the one who works is not first:\n%s", top)
	}
	var load []struct {
		User       string  `json:"user"`
		CPUPercent float64 `json:"cpu_percent"`
		Memory     int64   `json:"memory_bytes"`
		Pids       int64   `json:"pids"`
	}
	if err := json.Unmarshal([]byte(f.carrel(t, "top", "--json", "--interval", "1s")), &load); err != nil {
		t.Fatal(err)
	}
	if len(load) != 2 || load[0].CPUPercent < 5 || load[0].CPUPercent > 150 || load[0].Memory == 0 || load[0].Pids < 4 || load[1].CPUPercent > 5 {
		t.Errorf("carrel top --json: %+v", load)
	}
	// On a terminal it paints until it is interrupted, and no line is too long.
	screen, err := host.OnTerminal(f.CarrelCommand("top", "--interval", "200ms"), 10, 60)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { screen.Close() })
	for range 3 {
		if _, err := screen.Expect(`\x1b\[H\x1b\[J\d\d:\d\d:\d\d  2 containers\r\nUSER [^\n]*\r\n` + f.alice.Name + ` [^\n]{1,60}\r\n`); err != nil {
			t.Fatal(err)
		}
	}
	send(t, screen, "\x03")
	if r := screen.Wait(); r.Code != 0 {
		t.Errorf("carrel top after Ctrl-C: %v", r)
	}
	inspected := f.carrel(t, "inspect", f.alice.Name)
	wantLine(t, "inspect", inspected, `user +`+f.alice.Name+` \(uid \d+\)`)
	wantLine(t, "inspect", inspected, `state +running`)
	wantLine(t, "inspect", inspected, `cgroup +`+f.Cgroup+`/u\d+`)
	wantLine(t, "inspect", inspected, `  s\d+ +2\S+ \S+ +`+pts+` +\d+`)
	wantLine(t, "inspect", inspected, `  \d+ +sleep`)
	var details []struct {
		Layer    string `json:"layer"`
		Sessions []struct {
			ID string `json:"id"`
		} `json:"session_list"`
	}
	if err := json.Unmarshal([]byte(f.carrel(t, "inspect", "--json", f.alice.Name)), &details); err != nil {
		t.Fatal(err)
	}
	if len(details) != 1 || len(details[0].Sessions) != 1 {
		t.Fatalf("carrel inspect --json: %+v", details)
	}
	if st, err := os.Stat(details[0].Layer); err != nil || !st.IsDir() {
		t.Errorf("layer %q: %v", details[0].Layer, err)
	}
	// A signal to one session reaches its background processes and no other's.
	if got := f.in(t, f.alice, "setsid sleep 2000 >/dev/null 2>&1 </dev/null & until pgrep -fx 'sleep 2000' >/dev/null; do :; done; pgrep -c sleep"); got != "2" {
		t.Fatalf("%s sleeping processes; want 2", got)
	}
	wantLine(t, "kill", f.carrel(t, "kill", "--signal", "KILL", "--session", details[0].Sessions[0].ID, f.alice.Name), `signalled [3-9] processes of `+f.alice.Name)
	if r := term.Wait(); r.Signal == 0 && r.Code != 137 {
		t.Errorf("the session after carrel kill --session: %v", r)
	}
	if got := f.in(t, f.alice, "pgrep -c sleep"); got != "1" {
		t.Errorf("%s processes of the other session; want 1", got)
	}
	f.carrel(t, "kill", "--group", fmt.Sprint(f.alice.GID))
	within(t, 5*time.Second, "carrel kill --group", func() bool { return f.In(f.alice, "pgrep sleep", nil).Code == 1 })
	if r := f.Carrel("kill", "--session", "12345", f.alice.Name); r.Code != 1 || !strings.Contains(r.Stderr, "no such session") {
		t.Errorf("kill of no session: %v", r)
	}
}

// TestFreezeAndThaw suspends a container under a session.
func TestFreezeAndThaw(t *testing.T) {
	f := setup(t)
	f.empty(t)
	term := terminal(t, f, f.alice, "-l")
	here := ask(t, term, place, `[\n\r](pid:\[\d+\])\r`)
	f.carrel(t, "freeze", f.alice.Name)
	wantLine(t, "ps", f.carrel(t, "ps"), f.alice.Name+` .* suspended .*`)
	wantFailure(t, "a login into it", f.In(f.alice, "true", nil), 77, "suspended")
	f.in(t, f.bob, "true") // others notice nothing
	send(t, term, "echo th''awed\n")
	f.restartDaemon(t)
	wantFailure(t, "a login into it after carreld's restart", f.In(f.alice, "true", nil), 77, "suspended")
	f.carrel(t, "thaw", f.alice.Name)
	if _, err := term.Expect(`[\r\n]thawed\r`); err != nil {
		t.Error(err)
	}
	if again := f.in(t, f.alice, place); again != here {
		t.Errorf("after thawing: container %s; before %s", again, here)
	}
	f.carrel(t, "freeze", "--all")
	f.empty(t) // stops frozen ones, too
	for _, what := range []string{"freeze: by root", "thaw: by root"} {
		wantLine(t, "logs", f.carrel(t, "logs", f.alice.Name), `.* `+what)
	}
}

// restartDaemon kills carreld and starts it again as it was.
func (f *fixture) restartDaemon(t *testing.T) {
	t.Helper()
	f.Daemon().Kill()
	if _, err := f.Start(host.Options{}); err != nil {
		t.Fatal(err)
	}
}

// TestResetAndRemove give a user a fresh root file system, with and without
// the home.
func TestResetAndRemove(t *testing.T) {
	f := setup(t)
	a := f.account(t, "r", "")
	mark := func() {
		f.in(t, a, "echo x >/tmp/mark; echo x >~/mark")
	}
	marks := func() string {
		return f.in(t, a, "ls /tmp/mark ~/mark 2>/dev/null; true")
	}
	mark()
	if r := f.Carrel("reset", a.Name); r.Code != 64 || !strings.Contains(r.Stderr, "write --yes") {
		t.Errorf("reset without a yes: %v", r)
	}
	if got := marks(); !strings.Contains(got, "/tmp/mark") {
		t.Fatalf("marks before: %q", got)
	}
	wantLine(t, "reset", f.carrel(t, "reset", "--yes", a.Name), "reset "+a.Name)
	if got := marks(); got != a.Home+"/mark" {
		t.Errorf("marks after reset: %q; want the home's alone", got)
	}
	mark()
	wantLine(t, "rm", f.carrel(t, "rm", "--yes", a.Name), "removed "+a.Name)
	if got := marks(); got != a.Home+"/mark" {
		t.Errorf("marks after rm: %q; want the home's alone", got)
	}
	// At a terminal it asks.
	mark()
	f.carrel(t, "stop", a.Name)
	cmd := f.CarrelCommand("rm", "--home", a.Name)
	term, err := host.OnTerminal(cmd, 24, 80)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { term.Close() })
	if _, err := term.Expect(`and the HOME of ` + a.Name + `\? \[y/N\] `); err != nil {
		t.Fatal(err)
	}
	send(t, term, "y\n")
	if r := term.Wait(); r.Code != 0 {
		t.Errorf("rm --home at a terminal: %v", r)
	}
	if got := marks(); got != "" {
		t.Errorf("marks after rm --home: %q", got)
	}
	f.carrel(t, "rm", "--yes", "--home", a.Name)
	if r := f.Carrel("rm", "--yes", a.Name); r.Code != 0 || !strings.Contains(r.Stderr, "nothing of theirs is here") {
		t.Errorf("rm of nothing: %v", r)
	}
	left, err := filepath.Glob(filepath.Join(f.StateDir, "*", fmt.Sprint(a.UID)))
	if err != nil || len(left) != 0 {
		t.Errorf("left behind: %q, %v", left, err)
	}
}

// TestEventsOfALogin follows what happens while a user comes and goes.
func TestEventsOfALogin(t *testing.T) {
	f := setup(t)
	f.empty(t)
	cmd := f.CarrelCommand("events", "--follow", "--json", "--since", "0s", f.alice.Name)
	term, err := host.OnTerminal(cmd, 24, 200)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { term.Close() })
	begin := time.Now()
	f.in(t, f.alice, "true")
	if r := f.In(f.alice, "kill -9 $$", nil); r.Signal != 9 {
		t.Errorf("kill -9 $$: %v", r)
	}
	f.in(t, f.bob, "true")
	for _, want := range []string{
		`"event":"start","user":"` + f.alice.Name + `"`, `"event":"login"[^}]*without a terminal`, `"event":"logout"[^}]*status 0`,
		`"event":"logout"[^}]*signal 9`,
	} {
		if _, err := term.Expect(want); err != nil {
			t.Fatal(err)
		}
	}
	f.carrel(t, "stop", f.alice.Name) // not before: ends are told some time later
	if _, err := term.Expect(`"event":"stop"[^}]*by root`); err != nil {
		t.Fatal(err)
	}
	send(t, term, "\x03")
	if r := term.Wait(); r.Code != 0 || strings.Contains(r.Stdout, f.bob.Name) {
		t.Errorf("carrel events --follow after Ctrl-C: %v", r)
	}
	logs := f.carrel(t, "logs", "--since", begin.Format(time.RFC3339Nano), f.alice.Name)
	if n := strings.Count(logs, " login s"); n != 2 {
		t.Errorf("%d logins in the logs; want 2:\n%s", n, logs)
	}
	// A refusal says why, and no event what was typed.
	f.reconfigure(t, f.rule("allow = false\nmessage = \"not you\""))
	if r := f.In(f.alice, "echo se''cret", nil); r.Code != 77 {
		t.Errorf("a refused login: %v", r)
	}
	wantLine(t, "logs", f.carrel(t, "logs", "--event", "refused", f.alice.Name), `.* refused: not you`)
	text, err := os.ReadFile(filepath.Join(f.StateDir, "events.jsonl"))
	if err != nil || strings.Contains(string(text), "cret") {
		t.Errorf("the events hold what was typed, %v", err)
	}
}

// TestMaintenance shuts the door.
func TestMaintenance(t *testing.T) {
	f := setup(t)
	t.Cleanup(func() { f.carrel(t, "maintenance", "off") })
	term := terminal(t, f, f.alice, "-l")
	ask(t, term, "echo re''ady", `[\n\r](ready)\r`)
	f.carrel(t, "maintenance", "on", "--message", "back at noon")
	for _, e := range f.Entries() {
		r := host.Run(e.Command(f.bob, "true"))
		if r.Code != 77 || !strings.Contains(r.Stderr, "carrel: back at noon") {
			t.Errorf("%s during maintenance: %v", e.Name, r)
		}
	}
	ask(t, term, "echo still th''ere", `[\n\r]still (there)\r`)
	sftp := "/usr/lib/openssh/sftp-server"
	wantFailure(t, "sftp", f.In(f.bob, sftp, strings.NewReader("")), 77, "noon")
	f.restartDaemon(t)
	wantFailure(t, "after carreld's restart", f.In(f.bob, "true", nil), 77, "noon")
	f.carrel(t, "maintenance", "on", "--message", "files only", "--allow-files")
	if r := f.In(f.bob, sftp, strings.NewReader("")); r.Code != 0 || r.Stderr != "" {
		t.Errorf("sftp with --allow-files: %v", r)
	}
	if r := f.In(f.bob, "scp -t /tmp", strings.NewReader("")); strings.Contains(r.Stderr, "files only") {
		t.Errorf("scp with --allow-files: %v", r)
	}
	wantFailure(t, "a command with --allow-files", f.In(f.bob, sftp+"; id", nil), 77, "files only")
	wantLine(t, "status", f.carrel(t, "maintenance", "status"), `maintenance is on since .*except for file transfer`)
	f.carrel(t, "maintenance", "off")
	f.in(t, f.bob, "true")
}

// TestWall tells everybody at a terminal, those that refuse messages too.
func TestWall(t *testing.T) {
	f := setup(t)
	f.empty(t)
	alice, bob := terminal(t, f, f.alice, "-l"), terminal(t, f, f.bob, "-l")
	for _, term := range []*host.Terminal{alice, bob} {
		ask(t, term, "mesg n; echo re''ady", `[\n\r](ready)\r`)
	}
	wantLine(t, "wall", f.carrel(t, "wall", "--user", f.alice.Name, "only", "alice"), `told `+f.alice.Name+` on 1 terminals`)
	out := f.carrel(t, "wall", "to all \x1b[2J")
	wantLine(t, "wall", out, `told `+f.bob.Name+` on 1 terminals`)
	if _, err := alice.Expect(`carrel: only alice\r`); err != nil {
		t.Error(err)
	}
	for _, term := range []*host.Terminal{alice, bob} {
		if _, err := term.Expect(`carrel: to all \?\[2J\r`); err != nil {
			t.Error(err)
		}
		send(t, term, "exit\n")
	}
	if r := bob.Wait(); strings.Contains(r.Stdout, "only alice") {
		t.Errorf("bob was told what was alice's: %v", r)
	}
}
