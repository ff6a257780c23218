package doctor

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/carrel-sh/carrel/internal/testneed"
	"github.com/carrel-sh/carrel/test/internal/host"
)

// cover puts a file with that text over one of the kernel's, which all of the
// real machine shares.
func cover(t *testing.T, path, text string) {
	t.Helper()
	fake := filepath.Join(t.TempDir(), "fake")
	if err := os.WriteFile(fake, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount(fake, path, "", unix.MS_BIND, ""); err != nil {
		t.Fatalf("mount over %s: %v", path, err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(path, unix.MNT_DETACH); err != nil {
			t.Errorf("unmount %s: %v", path, err)
		}
	})
}

// TestStates makes bad states of the host, one at a time, and puts them right
// by the remedy that is printed, and where there is one also by --fix.
func TestStates(t *testing.T) {
	testneed.Root(t)
	m := shared
	passwd := func(line string) func(*testing.T) {
		return func(t *testing.T) { shell(t, "echo '"+line+"' >>/etc/passwd") }
	}
	run := func(command string) func(*testing.T) { return func(t *testing.T) { shell(t, command) } }
	unmask := run("rm -f /etc/systemd/system/user@*.service")
	if r := m.In(m.alice, "true", nil); r.Code != 0 { // makes her private home
		t.Fatal(r)
	}
	conf := filepath.Join(m.Dir, "carrel.toml")
	states := []struct {
		name, id, severity string
		who                host.Account // zero: the host
		make               func(*testing.T)
		hole               func() bool // nil: not tried
		byHand             string      // when the remedy is for a person
	}{
		{name: "twin", id: "uid-shared", severity: "critical", who: m.alice, make: passwd(fmt.Sprintf("twin:x:%d:%d::/:/bin/bash", m.alice.UID, m.alice.GID)),
			hole: func() bool { // another name, the same rights
				return host.Run(as(m.alice, "touch", m.alice.Home+"/x")).Code == 0 &&
					strings.Contains(shell(t, "id twin"), fmt.Sprint(m.alice.UID))
			}},
		{name: "privileged group", id: "privileged-group", severity: "warning", who: m.alice, make: run("gpasswd -a " + m.alice.Name + " disk")},
		{name: "writable home", id: "home-owner", severity: "warning", who: m.alice, make: run("chmod 777 " + m.alice.Home),
			hole: func() bool {
				return host.Run(as(m.plain, "touch", m.alice.Home+"/.planted")).Code == 0 && os.Remove(m.alice.Home+"/.planted") == nil
			}},
		{name: "foreign home", id: "home-owner", severity: "warning", who: m.alice, make: run("chown " + m.plain.Name + " " + m.alice.Home)},
		{name: "root", id: "root-shell", severity: "warning", make: passwd("toor:x:0:0::/root:" + m.Path("carrelsh"))},
		{name: "set-uid", id: "set-id", severity: "critical", make: run("chmod u+s " + m.Path("carrelsh"))},
		{name: "set-gid", id: "set-id", severity: "critical", make: run("chmod g+s " + m.Path("carrel-unpack"))},
		{name: "writable program", id: "set-id", severity: "critical", make: run("chmod o+w " + m.Path("carreld")),
			hole: func() bool { return host.Run(as(m.plain, "test", "-w", m.Path("carreld"))).Code == 0 }},
		{name: "foreign program", id: "set-id", severity: "critical", make: run("chown " + m.plain.Name + " " + m.Path("carrelsh")),
			hole: func() bool { return host.Run(as(m.plain, "chmod", "u+w", m.Path("carrelsh"))).Code == 0 }},
		{name: "writable directory", id: "set-id", severity: "critical", make: run("chmod o+w " + filepath.Dir(m.Path("carrelsh"))),
			hole: func() bool {
				return host.Run(as(m.plain, "mv", m.Path("carrelsh"), m.Path("carrelsh")+"x")).Code == 0 &&
					os.Rename(m.Path("carrelsh")+"x", m.Path("carrelsh")) == nil
			}},
		{name: "init", id: "file-mode", severity: "warning", make: run("chmod 755 " + m.Path("carrel-init"))},
		{name: "runtime", id: "file-mode", severity: "warning", make: run("chmod 755 " + m.Path("carrel-runtime")),
			hole: func() bool { return host.Run(as(m.plain, "test", "-x", m.Path("carrel-runtime"))).Code == 0 }},
		{name: "images", id: "state-mode", severity: "critical", make: run("chmod 755 " + m.StateDir + "/images"),
			hole: func() bool { return host.Run(as(m.plain, "ls", m.StateDir+"/images")).Code == 0 }},
		{name: "sockets", id: "state-mode", severity: "critical", make: run("chmod 755 " + m.RunDir + "/c"),
			hole: func() bool { return host.Run(as(m.plain, "ls", m.RunDir+"/c")).Code == 0 }},
		{name: "too tight", id: "state-mode", severity: "warning", make: run("chmod 700 " + m.RunDir)},
		{name: "login socket", id: "state-mode", severity: "warning", make: run("chmod 600 " + m.Socket()),
			hole: func() bool { return m.In(m.alice, "true", nil).Code != 0 }},
		{name: "subuid", id: "id-overlap", severity: "critical", make: run("echo " + m.plain.Name + ":1879113728:65536 >>/etc/subuid")},
		{name: "subgid", id: "id-overlap", severity: "critical", make: run("echo " + m.plain.Name + ":1:2147483647 >>/etc/subgid")},
		{name: "configuration", id: "config", severity: "warning", make: run("cp " + conf + " " + conf + ".old; echo nonsense=1 >>" + conf),
			byHand: "mv " + conf + ".old " + conf},
		{name: "host's home", id: "home-host", severity: "notice", who: m.harry, make: run("cp " + conf + " " + conf + ".old"),
			byHand: `sed -i 's/home = "host"/home = "private"/' ` + conf},
		{name: "lingering", id: "linger", severity: "warning", who: m.alice, make: run("mkdir -p /var/lib/systemd/linger; touch /var/lib/systemd/linger/" + m.alice.Name)},
		{name: "lingering with host home", id: "linger", severity: "critical", who: m.harry, make: run("touch /var/lib/systemd/linger/" + m.harry.Name)},
		{name: "service manager", id: "systemd-user", severity: "warning", who: m.alice, make: unmask, byHand: fmt.Sprintf("systemctl --root=/ mask user@%d.service", m.alice.UID)},
		{name: "service manager with host home", id: "systemd-user", severity: "critical", who: m.harry, make: unmask, byHand: fmt.Sprintf("systemctl --root=/ mask user@%d.service", m.harry.UID)},
		{name: "TIOCSTI", id: "tiocsti", severity: "notice", make: func(t *testing.T) { cover(t, "/proc/sys/dev/tty/legacy_tiocsti", "1\n") }},
		{name: "core dumps", id: "core-pattern", severity: "notice", make: func(t *testing.T) {
			cover(t, "/proc/sys/kernel/core_pattern", "|/usr/lib/systemd/systemd-coredump %P\n")
		}},
		{name: "user namespaces", id: "userns-limit", severity: "warning", make: func(t *testing.T) { cover(t, "/proc/sys/user/max_user_namespaces", "0\n") }},
		{name: "old kernel", id: "kernel-old", severity: "warning", make: func(t *testing.T) { cover(t, "/proc/sys/kernel/osrelease", "5.10.0-8-amd64\n") },
			byHand: "echo 6.1.0 >/proc/sys/kernel/osrelease"},
		{name: "no overlay", id: "kernel-missing", severity: "warning", make: func(t *testing.T) { cover(t, "/proc/filesystems", "nodev\ttmpfs\n") },
			byHand: "printf 'nodev\\toverlay\\n' >/proc/filesystems"},
	}
	for _, s := range states {
		t.Run(s.name, func(t *testing.T) {
			make := func() *finding {
				m := setup(t)
				if s.make != nil {
					s.make(t)
				}
				return m.doctor(t, nil).want(t, s.id, s.severity, s.who)
			}
			gone := func(how string) {
				t.Helper()
				m.doctor(t, nil).wantNone(t, s.id, s.who)
				if s.hole != nil && s.id != "uid-shared" && s.hole() {
					t.Errorf("%s: the hole is still open", how)
				}
			}
			f := make()
			if s.hole != nil && !s.hole() {
				t.Error("is the hole not open?")
			}
			if s.byHand != "" {
				shell(t, s.byHand)
			} else {
				f.apply(t)
			}
			gone("remedy")
			if s.id == "home-host" {
				shell(t, "mv "+conf+".old "+conf)
			}
			if !f.Fix {
				return
			}
			make()
			about := s.who
			if about.Name == "" {
				about = m.alice // to be quick; what is the host's is looked at anyway
			}
			m.doctor(t, []host.Account{about}, "--fix")
			gone("--fix")
		})
	}
}

// TestKeys has sshd read keys where the container cannot write.
func TestKeys(t *testing.T) {
	m := setup(t)
	m.serve(t, "")
	enters := func() bool { return host.Run(m.ssh(m.harry, "true")).Code == 0 }
	// Whatever runs inside may let somebody in.
	if r := m.In(m.harry, "cd && cp .ssh/authorized_keys keys && echo >.ssh/authorized_keys", nil); r.Code != 0 {
		t.Fatal(r)
	}
	if enters() {
		t.Error("sshd does not read what the container writes: is the finding true?")
	}
	if r := m.In(m.harry, "cd && mv keys .ssh/authorized_keys", nil); r.Code != 0 {
		t.Fatal(r)
	}
	r := m.doctor(t, []host.Account{m.harry})
	m.doctor(t, nil).wantNone(t, "sshd-keys", m.alice)
	r.want(t, "sshd-keys", "warning", m.harry).apply(t)
	shell(t, fmt.Sprintf("install -m 0644 %s/.ssh/authorized_keys /etc/ssh/authorized_keys/%s", m.harry.Home, m.harry.Name))
	m.reload(t, func() { shell(t, "kill -HUP $(cat /run/sshd.pid)") })
	m.doctor(t, nil).wantNone(t, "sshd-keys", m.harry)
	if r := m.In(m.harry, "cd && echo >.ssh/authorized_keys", nil); r.Code != 0 {
		t.Fatal(r)
	}
	if !enters() {
		t.Error("the keys are not where the remedy puts them")
	}
}

// TestTrustFiles is about what sshd says; no Kerberos realm is here to try it.
func TestTrustFiles(t *testing.T) {
	m := setup(t)
	m.serve(t, "HostbasedAuthentication yes\nIgnoreRhosts no\nGSSAPIAuthentication yes")
	r := m.doctor(t, nil)
	r.wantNone(t, "sshd-trust-files", m.alice)
	r.want(t, "sshd-trust-files", "warning", m.harry).apply(t)
	m.doctor(t, nil).wantNone(t, "sshd-trust-files", m.harry)
}

// TestAgentDisagreement: sshd's and Carrel's own switch for ssh -A.
func TestAgentDisagreement(t *testing.T) {
	m := setup(t)
	m.serve(t, "AllowAgentForwarding no")
	m.doctor(t, nil).want(t, "sshd-agent", "notice", m.alice).apply(t)
	m.doctor(t, nil).wantNone(t, "sshd-agent", m.alice)
}

// TestWho: who is looked at, and that --fix leaves others alone.
func TestWho(t *testing.T) {
	m := setup(t)
	m.serve(t, "")
	all := m.doctor(t, nil).Accounts
	for _, a := range []host.Account{m.alice, m.bob, m.harry, m.frank} {
		if !strings.Contains(strings.Join(all, " "), a.Name) {
			t.Errorf("%s is not looked at, only %q", a.Name, all)
		}
	}
	if strings.Contains(strings.Join(all, " "), m.plain.Name) {
		t.Errorf("plain is looked at: %q", all)
	}
	// Asked about, it is looked at, and nothing else; --fix does not lock it in.
	r := m.doctor(t, []host.Account{m.plain}, "--fix")
	if len(r.Accounts) != 1 || r.find("login-shell", m.plain.Name) == nil {
		t.Errorf("--user plain: %+v", r)
	}
	if groups := shell(t, "id -nG "+m.plain.Name); strings.Contains(groups, "carrel") {
		t.Errorf("--fix put plain into %q", groups)
	}
	// sshd forces carrelsh upon an account that nothing else makes a user.
	shell(t, fmt.Sprintf("printf 'Match User %s\\n\\tForceCommand %s\\n' >>/etc/ssh/sshd_config", m.plain.Name, m.Path("carrelsh")))
	f := m.doctor(t, nil).want(t, "login-shell", "critical", m.plain)
	if !strings.Contains(strings.Join(f.Evidence, "\n"), "sshd forces carrelsh") {
		t.Errorf("evidence %q", f.Evidence)
	}
	if r := m.Carrel("doctor", "--user", "no-such-account"); r.Code != 67 {
		t.Errorf("--user no-such-account: %v; want status 67", r)
	}
	cmd := as(m.plain, m.Path("carrel"), "doctor")
	if r := host.Run(cmd); r.Code != 77 {
		t.Errorf("as plain: %v; want status 77", r)
	}
}
