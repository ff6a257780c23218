package doctor

import (
	"io/fs"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/carrel-sh/carrel/config"
	"github.com/carrel-sh/carrel/sandbox/idrange"
	"github.com/carrel-sh/carrel/sshd"
)

// shut is what sshd says with the drop-in.
const shut = `forcecommand /usr/bin/carrelsh
allowagentforwarding yes
allowtcpforwarding no
allowstreamlocalforwarding no
disableforwarding no
permitopen none
permitlisten none
permittunnel no
x11forwarding no
permituserrc no
permituserenvironment no
acceptenv LANG
acceptenv LC_*
subsystem sftp internal-sftp
authorizedkeysfile .ssh/authorized_keys .ssh/authorized_keys2
pubkeyauthentication yes
hostbasedauthentication no
ignorerhosts yes
kerberosauthentication no
gssapiauthentication no
unusedconnectiontimeout 300
`

// healthy returns the facts of a host with one user and nothing wrong.
func healthy() *Facts {
	return &Facts{
		Carrelsh: "/usr/bin/carrelsh", Shells: []string{"/usr/bin/carrelsh"},
		SSHD: SSHD{Present: true},
		Accounts: []Account{{
			Name: "alice", UID: 1000, Dir: "/home/alice", Shell: "/usr/bin/carrelsh", Contained: true, Home: config.HomePrivate, Agent: true,
			Groups: []string{"alice", "carrel"},
			Probes: []Probe{{From: sshd.Connections(nil)[0], Effective: sshd.ParseEffective(shut)}},
		}},
		PAM: []Place{
			{"/etc/pam.d/sshd", 47, "session required pam_env.so user_readenv=1 envfile=/etc/default/locale"},
			{"/etc/pam.d/common-session", 9, "session optional pam_systemd.so"},
		},
		Mailers: []string{"/usr/sbin/exim4"},
		Kernel:  Kernel{Release: "6.1.0", Major: 6, Minor: 1, CgroupMode: "v2"},
	}
}

func TestHealthy(t *testing.T) {
	if found := Diagnose(healthy()); len(found) > 0 {
		t.Errorf("Diagnose(healthy) = %+v", found)
	}
}

// bad makes one thing wrong with healthy facts, for each kind of finding.
var bad = []struct {
	id       string
	severity Severity
	do       func(f *Facts, a *Account)
}{
	{"login-shell", Critical, func(_ *Facts, a *Account) { a.Contained, a.Shell = false, "/bin/bash" }},
	{"uid-shared", Critical, func(_ *Facts, a *Account) { a.SameUID = []string{"twin"} }},
	{"host-process", Critical, func(_ *Facts, a *Account) { a.Processes = []string{"4321 (/usr/bin/tmux)"} }},
	{"sshd-tcp-forwarding", Critical, set("allowtcpforwarding yes", "permitlisten any")},
	{"sshd-tcp-forwarding", Critical, set("allowtcpforwarding local", "permitopen any")},
	{"sshd-tcp-forwarding", Critical, set("allowtcpforwarding remote", "permitlisten any")},
	{"sshd-stream-forwarding", Critical, set("allowstreamlocalforwarding local")},
	{"sshd-tunnel", Critical, set("permittunnel point-to-point", "disableforwarding yes")},
	{"sshd-x11", Critical, set("x11forwarding yes", "disableforwarding yes")},
	{"sshd-sftp", Critical, set("forcecommand none")},
	{"sshd-sftp", Critical, set("forcecommand internal-sftp -R")},
	{"sshd-user-rc", Warning, set("forcecommand none", "permituserrc yes", "subsystem sftp /usr/lib/sftp-server")},
	{"sshd-user-environment", Warning, set("permituserenvironment yes")},
	{"sshd-user-environment", Warning, set("permituserenvironment LANG,LD_*")},
	{"sshd-user-environment", Critical, func(f *Facts, a *Account) {
		set("permituserenvironment yes")(f, a)
		a.DirFiles, f.SSHD.RC = map[string]string{".ssh/environment": ""}, true
	}},
	{"sshd-accept-env", Warning, set("acceptenv *")},
	{"sshd-accept-env", Critical, func(f *Facts, a *Account) { set("acceptenv ?D_PRELOAD")(f, a); f.SSHD.RC = true }},
	{"sshd-stale", Warning, func(f *Facts, _ *Account) { f.SSHD.Stale = "/etc/ssh/sshd_config" }},
	{"sshd-keys", Warning, func(f *Facts, a *Account) {
		f.StateDir = "/var/lib/carrel"
		set("authorizedkeysfile /var/lib/carrel/homes/%U/.ssh/authorized_keys")(f, a)
	}},
	{"sshd-rc", Warning, func(f *Facts, _ *Account) { f.SSHD.RC = true }},
	{"sshd-keys", Warning, writesDir},
	{"sshd-key-command", Warning, func(_ *Facts, a *Account) { a.Keys = []Place{{"/home/alice/.ssh/authorized_keys", 3, "command=…"}} }},
	{"sshd-trust-files", Warning, func(f *Facts, a *Account) {
		writesDir(f, a)
		set("hostbasedauthentication yes", "ignorerhosts no")(f, a)
	}},
	{"sshd-trust-files", Warning, func(f *Facts, a *Account) { writesDir(f, a); set("gssapiauthentication yes")(f, a) }},
	{"sshd-agent", Notice, set("allowagentforwarding no")},
	{"sshd-agent", Notice, set("disableforwarding yes")},
	{"sshd-agent", Notice, func(_ *Facts, a *Account) { a.Agent = false }},
	{"sshd-idle-connections", Notice, set("unusedconnectiontimeout none")},
	{"pam-user-env", Warning, writesDir},
	{"pam-user-env", Critical, func(f *Facts, a *Account) { writesDir(f, a); set("x11forwarding yes")(f, a) }},
	{"pam-user-env", Warning, func(_ *Facts, a *Account) { a.DirFiles = map[string]string{".pam_environment": ""} }},
	{"systemd-user", Warning, func(_ *Facts, a *Account) { a.UserUnit = "/lib/systemd/system/user@.service" }},
	{"systemd-user", Critical, func(f *Facts, a *Account) { writesDir(f, a); a.UserUnit = "/lib/systemd/system/user@.service" }},
	{"linger", Warning, func(_ *Facts, a *Account) { a.Lingers = "/var/lib/systemd/linger/alice" }},
	{"linger", Critical, func(_ *Facts, a *Account) {
		a.Lingers, a.DirFiles = "/var/lib/systemd/linger/alice", map[string]string{".config/systemd/user": ""}
	}},
	{"cron-job", Critical, func(_ *Facts, a *Account) { a.Cron.Jobs = []string{"/var/spool/cron/crontabs/alice:1: * * * * * x"} }},
	{"cron-allowed", Warning, func(_ *Facts, a *Account) { a.Cron.Allowed = "/etc/cron.allow names it" }},
	{"at-job", Critical, func(_ *Facts, a *Account) { a.At.Jobs = []string{"/var/spool/cron/atjobs/a0001"} }},
	{"at-allowed", Warning, func(_ *Facts, a *Account) { a.At.Allowed = "/etc/at.deny does not name it" }},
	{"mail-forward", Critical, writesDir},
	{"mail-forward", Warning, func(_ *Facts, a *Account) { a.DirFiles = map[string]string{".forward": "bob@example.org\n"} }},
	{"mail-forward", Critical, func(_ *Facts, a *Account) { a.DirFiles = map[string]string{".forward": "|/bin/x\n"} }},
	{"other-service", Warning, func(f *Facts, _ *Account) { f.Services = services[:1] }},
	{"privileged-group", Warning, func(_ *Facts, a *Account) { a.Groups = append(a.Groups, "docker") }},
	{"home-host", Notice, writesDir},
	{"home-owner", Warning, func(_ *Facts, a *Account) { a.DirProblem = "/home/alice has mode 0777" }},
	{"shells", Warning, func(f *Facts, _ *Account) { f.ListedShells = []Place{{shellsPath, 7, "/usr/bin/carrelsh"}} }},
	{"root-shell", Warning, func(f *Facts, _ *Account) { f.RootShells = []string{"root"} }},
	{"set-id", Critical, file("set-id", 0o755|os.ModeSetuid, 0o755)},
	{"file-mode", Warning, file("file-mode", 0o755, 0o700)},
	{"state-mode", Critical, file("state-mode", 0o755, 0o700)},
	{"id-overlap", Critical, func(f *Facts, _ *Account) { f.IDs = []idrange.Conflict{{Source: "/etc/subuid", Line: 1, Text: "dave"}} }},
	{"config", Warning, func(f *Facts, _ *Account) { f.Config = []string{"carrel.toml:3: unknown key"} }},
	{"kernel-missing", Warning, func(f *Facts, _ *Account) { f.Kernel.Missing = []string{"overlay"} }},
	{"kernel-old", Warning, func(f *Facts, _ *Account) { f.Kernel.Major, f.Kernel.Minor = 5, 19 }},
	{"userns-limit", Warning, sysctl("user.max_user_namespaces", "0")},
	{"cgroup-limits", Warning, func(f *Facts, _ *Account) { f.Kernel.NoLimit = []string{"memory"} }},
	{"cgroup-v1", Notice, func(f *Facts, _ *Account) { f.Kernel.CgroupMode = "hybrid" }},
	{"tiocsti", Notice, sysctl(tiocsti, "1")},
	{"core-pattern", Notice, sysctl("kernel.core_pattern", "|/usr/share/apport/apport %p")},
}

// set changes what sshd says.
func set(lines ...string) func(*Facts, *Account) {
	return func(_ *Facts, a *Account) {
		for keyword, values := range sshd.ParseEffective(strings.Join(lines, "\n")) {
			a.Probes[0].Effective[keyword] = values
		}
	}
}

func writesDir(_ *Facts, a *Account) { a.Home, a.WritesDir = config.HomeHost, true }

func file(kind string, mode, want fs.FileMode) func(*Facts, *Account) {
	return func(f *Facts, _ *Account) {
		f.Files = []File{{Path: "/usr/libexec/carrel/x", What: "x", Kind: kind, Mode: mode, Want: want}}
	}
}

func sysctl(name, value string) func(*Facts, *Account) {
	return func(f *Facts, _ *Account) { f.Kernel.Sysctl = map[string]string{name: value} }
}

// TestEveryKind: each bad state is found, with evidence and a remedy, and the
// healthy state above is the twin in which nothing is.
func TestEveryKind(t *testing.T) {
	seen := map[string]bool{}
	for _, tt := range bad {
		f := healthy()
		tt.do(f, &f.Accounts[0])
		findings := Diagnose(f)
		i := slices.IndexFunc(findings, func(found Finding) bool { return found.ID == tt.id })
		if i < 0 {
			t.Errorf("%s is not found; only %+v", tt.id, findings)
			continue
		}
		found := findings[i]
		seen[tt.id] = true
		if found.Severity != tt.severity || len(found.Evidence) == 0 || found.Evidence[0] == "" || len(found.Remedy) == 0 {
			t.Errorf("%+v; want severity %v, evidence and a remedy", found, tt.severity)
		}
		if Worst(findings) < tt.severity {
			t.Errorf("Worst(%+v) = %v", findings, Worst(findings))
		}
		for _, line := range found.Remedy {
			if strings.Contains(line, "USERS") {
				t.Errorf("%s: the remedy %q does not name the accounts", tt.id, line)
			}
		}
	}
	for _, k := range Kinds() {
		if !seen[k.ID] {
			t.Errorf("no test makes %s", k.ID)
		}
	}
}

// TestShutByOtherMeans: what is closed by another keyword is no finding.
func TestShutByOtherMeans(t *testing.T) {
	for _, lines := range [][]string{
		{"allowtcpforwarding yes", "permitopen any", "permitlisten any", "disableforwarding yes"},
		{"allowstreamlocalforwarding yes", "disableforwarding yes"},
		{"allowtcpforwarding yes"}, // PermitOpen and PermitListen are none
		{"allowtcpforwarding local", "permitlisten any"},
		{"permituserrc yes"}, // ForceCommand
		{"forcecommand none", "subsystem sftp /usr/lib/openssh/sftp-server"},
		{"permituserenvironment LANG,LC_*"},
		{"hostbasedauthentication yes"}, // the container does not write the home
	} {
		f := healthy()
		set(lines...)(f, &f.Accounts[0])
		if slices.Contains(lines, "disableforwarding yes") {
			f.Accounts[0].Agent = false
		}
		if found := Diagnose(f); len(found) > 0 {
			t.Errorf("%q: %+v", lines, found)
		}
	}
}

// TestMerge: accounts with the same trouble are one finding, and an exception
// for some network is seen.
func TestMerge(t *testing.T) {
	f := healthy()
	open := sshd.ParseEffective(shut)
	open["x11forwarding"] = []string{"yes"}
	f.SSHD.Lines = []sshd.Line{{File: "/etc/ssh/sshd_config", Number: 9, Keyword: "x11forwarding", Args: "YES"}}
	a := f.Accounts[0]
	office := sshd.Connection{Host: "h", Addr: "10.0.0.0"}
	a.Probes = []Probe{a.Probes[0], {From: office, Effective: open}}
	b := a
	b.Name = "bob"
	f.Accounts = []Account{b, a}
	found := Diagnose(f)
	if len(found) != 1 || strings.Join(found[0].Accounts, " ") != "alice bob" || len(found[0].Evidence) != 1 {
		t.Fatalf("%+v; want one finding about alice and bob", found)
	}
	if want := "sshd -T: x11forwarding yes (from host=h,addr=10.0.0.0), /etc/ssh/sshd_config:9"; found[0].Evidence[0] != want {
		t.Errorf("evidence %q; want %q", found[0].Evidence[0], want)
	}
	if remedy := strings.Join(found[0].Remedy, "\n"); !strings.Contains(remedy, "Match User alice,bob\n\tX11Forwarding no") {
		t.Errorf("remedy %q", remedy)
	}
}

func TestKindsAreUnique(t *testing.T) {
	seen := map[string]bool{}
	for _, k := range Kinds() {
		if seen[k.ID] || k.ID == "" || k.Title == "" || k.Worst == 0 || strings.HasSuffix(k.Title, ".") {
			t.Errorf("%+v", k)
		}
		seen[k.ID] = true
	}
}
