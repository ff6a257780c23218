package doctor

import (
	"encoding/json"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/carrel-sh/carrel/test/internal/host"
)

// A report is the JSON of carrel doctor.
type report struct {
	Severity  string
	Accounts  []string
	Findings  []finding
	Fixed     []struct{ ID, Did, Error string }
	Unchecked []string

	status int
}

type finding struct {
	ID, Severity               string
	Accounts, Evidence, Remedy []string
	Fix                        bool
}

// doctor runs carrel doctor about accounts, or about the host's when none is
// given.
func (m *machine) doctor(t *testing.T, about []host.Account, flags ...string) report {
	t.Helper()
	args := append([]string{"doctor", "--json"}, flags...)
	for _, a := range about {
		args = append(args, "--user", a.Name)
	}
	r := m.Carrel(args...)
	var got report
	if err := json.Unmarshal([]byte(r.Stdout), &got); err != nil || r.Err != nil {
		t.Fatalf("carrel %q: %v: %v", args, err, r)
	}
	for _, action := range got.Fixed {
		if action.Error != "" {
			t.Errorf("carrel %q: %s: %s", args, action.ID, action.Error)
		}
	}
	if len(got.Unchecked) > 0 {
		t.Errorf("carrel %q: not checked: %q", args, got.Unchecked)
	}
	got.status = r.Code
	want := map[string]int{"critical": 2, "warning": 1, "notice": 0, "none": 0}
	if len(got.Unchecked) == 0 && got.status != want[got.Severity] {
		t.Errorf("carrel %q: exit status %d with severity %s", args, got.status, got.Severity)
	}
	return got
}

// find returns the finding about the account, or about the host for "".
func (r report) find(id, account string) *finding {
	i := slices.IndexFunc(r.Findings, func(f finding) bool {
		return f.ID == id && (account == "" || slices.Contains(f.Accounts, account))
	})
	if i < 0 {
		return nil
	}
	return &r.Findings[i]
}

// want demands a finding of that severity about an account.
func (r report) want(t *testing.T, id, severity string, a host.Account) *finding {
	t.Helper()
	f := r.find(id, a.Name)
	if f == nil {
		t.Fatalf("doctor does not find %s for %s, only %v", id, a.Name, r.ids())
	}
	if f.Severity != severity {
		t.Errorf("%s: severity %s; want %s: %q", id, f.Severity, severity, f.Evidence)
	}
	return f
}

// wantNone demands that there is no such finding about the account.
func (r report) wantNone(t *testing.T, id string, a host.Account) {
	t.Helper()
	if f := r.find(id, a.Name); f != nil {
		t.Errorf("doctor still finds %s for %s: %q", id, a.Name, f.Evidence)
	}
}

func (r report) ids() (ids []string) {
	for _, f := range r.Findings {
		ids = append(ids, f.Severity+" "+f.ID)
	}
	return ids
}

// apply does what the remedy says: its commands are typed, and lines for
// sshd are put where it wants them.
func (f *finding) apply(t *testing.T) {
	t.Helper()
	const local = "/etc/ssh/sshd_config.d/40-carrel-local.conf"
	forSSHD := false
	for _, line := range f.Remedy {
		switch {
		case strings.Contains(line, "write to "+local):
			forSSHD = true
		case forSSHD:
			shell(t, "cat >>"+local+" <<'END'\n"+line+"\nEND\nsshd -t")
		case !strings.HasPrefix(line, "#") && !strings.HasPrefix(line, "carrel doctor"):
			shell(t, line)
		}
	}
}

// TestFixIsIdempotent: the second --fix does nothing, and neither breaks what
// works.
func TestFixIsIdempotent(t *testing.T) {
	m := setup(t)
	m.serve(t, "")
	first := m.doctor(t, nil, "--fix")
	if len(first.Fixed) == 0 {
		t.Error("--fix did nothing on a Debian with its defaults")
	}
	for _, id := range []string{"sshd-tcp-forwarding", "sshd-stream-forwarding", "sshd-x11", "sshd-user-rc", "systemd-user", "cron-allowed", "at-allowed"} {
		first.wantNone(t, id, m.alice)
	}
	if second := m.doctor(t, nil, "--fix"); len(second.Fixed) > 0 {
		t.Errorf("the second --fix did %+v", second.Fixed)
	}
	if r := host.Run(m.ssh(m.alice, "readlink /proc/self/ns/mnt")); r.Code != 0 || strings.TrimSpace(r.Stdout) == m.place {
		t.Errorf("alice, after the fix: %v", r)
	}
	// Of others nothing is taken.
	if r := host.Run(m.ssh(m.plain, "readlink /proc/self/ns/mnt")); strings.TrimSpace(r.Stdout) != m.place {
		t.Errorf("plain, after the fix: %v", r)
	}
	// A private home, and nothing that --fix left for a person to do.
	for _, f := range m.doctor(t, []host.Account{m.alice}).Findings {
		if f.Severity != "notice" && len(f.Accounts) > 0 {
			t.Errorf("after --fix: %+v", f)
		}
	}
}

// TestFixLeavesBroken: a configuration that sshd refuses already is reported,
// and not touched. That --fix takes back what sshd refuses is tested in
// sshd/doctor.
func TestFixLeavesBroken(t *testing.T) {
	m := setup(t)
	const config = "/etc/ssh/sshd_config"
	broken := shell(t, "cat "+config) + "\nNoSuchKeyword yes\n"
	write(t, config, broken, 0o644)
	r := m.Carrel("doctor", "--fix")
	if !strings.Contains(r.Stderr, "not checked: ") || !strings.Contains(r.Stderr, "NoSuchKeyword") || r.Code == 0 || r.Code == 1 {
		t.Errorf("with a broken configuration: %v; want it not checked", r)
	}
	if got := shell(t, "cat "+config); got != broken {
		t.Error("the broken configuration was changed")
	}
	if _, err := os.Stat("/etc/ssh/sshd_config.d/50-carrel.conf"); err == nil {
		t.Error("the drop-in was written although sshd refuses the configuration")
	}
}

// TestReadme types what the README says about the doctor.
func TestReadme(t *testing.T) {
	m := setup(t)
	m.serve(t, "")
	readme, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, block, ok := strings.Cut(string(readme), "<!-- test:doctor -->\n```sh\n")
	block, _, ok2 := strings.Cut(block, "```")
	if !ok || !ok2 {
		t.Fatal("the README has no example of the doctor")
	}
	block = strings.ReplaceAll(block, "alice", m.alice.Name)
	for line := range strings.Lines(block) {
		command, _, _ := strings.Cut(line, "#")
		words := strings.Fields(command)
		r := m.Carrel(words[1:]...)
		status := 2 // of the whole host: frank has bash, and harry the host's home
		if strings.Contains(command, "--user") {
			status = 0 // of alice nothing is left
		}
		if r.Code != status || r.Stderr != "" || r.Err != nil {
			t.Errorf("%s: %v; want exit status %d", command, r, status)
		}
	}
}
