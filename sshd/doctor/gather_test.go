package doctor

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/carrel-sh/carrel/config"
	"github.com/carrel-sh/carrel/internal/testneed"
	"github.com/carrel-sh/carrel/sandbox/cgroup"
	"github.com/carrel-sh/carrel/sandbox/cgroup/leaf"
	"github.com/carrel-sh/carrel/sshd"
)

// A fakeHost is a tree of files, and programs that answer from it.
type fakeHost struct {
	*Gatherer
	t      *testing.T
	refuse func() bool // sshd -t does
	ran    []string
}

// newHost returns a host with alice, whose shell is carrelsh, and nothing
// wrong.
func newHost(t *testing.T) *fakeHost {
	h := &fakeHost{t: t, refuse: func() bool { return false }}
	h.Gatherer = &Gatherer{
		Root: t.TempDir(), Run: h.run, Config: config.Default(), Carrelsh: "/usr/bin/carrelsh", Carrel: "/usr/bin/carrel",
		Carreld: "/usr/sbin/carreld", LibexecDir: "/usr/libexec/carrel", StateDir: "/var/lib/carrel", RunDir: "/run/carrel",
		Cgroup: func() (cgroup.Hierarchy, error) {
			return cgroup.Hierarchy{Mode: leaf.V1, V1: map[string]string{"memory": "/m", "cpu": "/c", "pids": "/p"}}, nil
		},
	}
	for file, text := range map[string]string{
		"/etc/passwd":                            "root:x:0:0::/root:/bin/bash\nalice:x:1000:1000::/home/alice:/usr/bin/carrelsh\nbob:x:1001:1001::/home/bob:/bin/bash\n",
		"/etc/group":                             "root:x:0:\nalice:x:1000:\nbob:x:1001:\ncarrel:x:999:alice\n",
		"/etc/shells":                            "/bin/bash\n",
		"/etc/ssh/sshd_config":                   "Include /etc/ssh/sshd_config.d/*.conf\nPort 22\n",
		sshdProgram:                              "x",
		"/proc/sys/kernel/osrelease":             "6.12.3-cloud-amd64\n",
		"/proc/filesystems":                      "nodev\toverlay\n",
		"/proc/sys/kernel/seccomp/actions_avail": "allow\n",
		"/proc/sys/kernel/core_pattern":          "core\n",
		"/proc/self/ns/user":                     "", "/proc/self/ns/cgroup": "", "/proc/self/ns/net": "",
		"/home/alice/.profile": "",
	} {
		h.put(file, text, 0o644)
	}
	h.put(sshdProgram, "x", 0o755)
	return h
}

func (h *fakeHost) put(file, text string, mode os.FileMode) {
	h.t.Helper()
	name := filepath.Join(h.Root, file)
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		h.t.Fatal(err)
	}
	if err := os.WriteFile(name, []byte(text), mode); err != nil {
		h.t.Fatal(err)
	}
	if err := os.Chmod(name, mode); err != nil {
		h.t.Fatal(err)
	}
}

func (h *fakeHost) read(file string) string {
	h.t.Helper()
	text, err := os.ReadFile(filepath.Join(h.Root, file))
	if err != nil && !os.IsNotExist(err) {
		h.t.Fatal(err)
	}
	return string(text)
}

// run answers as the programs of the host would.
func (h *fakeHost) run(_ context.Context, name string, args ...string) (string, error) {
	line := filepath.Base(name) + " " + strings.Join(args, " ")
	switch {
	case line == "getent passwd":
		return h.read("/etc/passwd"), nil
	case strings.HasPrefix(line, "getent group carrel"):
		return "carrel:x:999:\n", nil
	case line == "sshd -t":
		if h.refuse() {
			return "", errors.New("bad configuration option")
		}
		return "", nil
	case strings.HasPrefix(line, "sshd -T -C user=bob,"): // not in the group
		return strings.ReplaceAll(shut, "forcecommand /usr/bin/carrelsh", "forcecommand none"), nil
	case strings.HasPrefix(line, "sshd -T -C "):
		if strings.Contains(h.read(sshd.DropInPath), "X11Forwarding no") {
			return shut, nil
		}
		return strings.ReplaceAll(shut, "x11forwarding no", "x11forwarding yes"), nil
	}
	h.ran = append(h.ran, line)
	return "", nil
}

// gather returns the findings, and demands that all could be checked.
func (h *fakeHost) gather() (*Facts, []Finding) {
	h.t.Helper()
	f, err := h.Gather(h.t.Context())
	if err != nil {
		h.t.Fatal(err)
	}
	if len(f.Unchecked) > 0 {
		h.t.Errorf("not checked: %q", f.Unchecked)
	}
	return f, Diagnose(f)
}

func ids(findings []Finding) (ids []string) {
	for _, f := range findings {
		ids = append(ids, f.ID)
	}
	return ids
}

func TestGatherHealthy(t *testing.T) {
	h := newHost(t)
	h.put(sshd.DropInPath, sshd.DropIn(h.Carrelsh), 0o644)
	f, findings := h.gather()
	if len(f.Accounts) != 1 || f.Accounts[0].Name != "alice" || f.Accounts[0].Why != "its shell is carrelsh" {
		t.Errorf("accounts %+v; want alice alone", f.Accounts)
	}
	if diff := cmp.Diff([]string{"cgroup-v1"}, ids(findings)); diff != "" {
		t.Errorf("findings (-want +got):\n%s", diff)
	}
}

// TestGather makes states that a test on the real machine cannot.
func TestGather(t *testing.T) {
	put := func(file, text string) func(*fakeHost) {
		return func(h *fakeHost) { h.put(file, text, 0o755) }
	}
	for _, tt := range []struct {
		id   string
		bad  func(*fakeHost)
		good func(*fakeHost)
	}{
		{"other-service", put("/usr/sbin/vsftpd", ""), func(h *fakeHost) { os.Remove(h.at("/usr/sbin/vsftpd")) }},
		{"kernel-missing", put("/proc/filesystems", "nodev\ttmpfs\n"), put("/lib/modules/6.12.3-cloud-amd64/modules.dep", "kernel/fs/overlayfs/overlay.ko.xz:\n")},
		{"kernel-missing", func(h *fakeHost) { os.Remove(h.at("/proc/sys/kernel/seccomp/actions_avail")) }, put("/proc/sys/kernel/seccomp/actions_avail", "allow\n")},
		{"kernel-old", put("/proc/sys/kernel/osrelease", "5.15.0-91-generic\n"), put("/proc/sys/kernel/osrelease", "6.1.0-18-amd64\n")},
		{"userns-limit", put("/proc/sys/user/max_user_namespaces", "0\n"), put("/proc/sys/user/max_user_namespaces", "63000\n")},
		{"core-pattern", put("/proc/sys/kernel/core_pattern", "|/usr/share/apport/apport -p%p\n"), put("/proc/sys/kernel/core_pattern", "core\n")},
		{"cgroup-limits", func(h *fakeHost) {
			h.Cgroup = func() (cgroup.Hierarchy, error) {
				return cgroup.Hierarchy{Mode: leaf.V2, Unified: h.at("/cg")}, nil
			}
			h.put("/cg/cgroup.controllers", "cpu pids\n", 0o644)
		}, put("/cg/cgroup.controllers", "cpuset cpu io memory pids\n")},
		{"cgroup-v1", func(*fakeHost) {}, func(h *fakeHost) {
			h.Cgroup = func() (cgroup.Hierarchy, error) {
				return cgroup.Hierarchy{Mode: leaf.V2, Unified: h.at("/cg")}, nil
			}
			h.put("/cg/cgroup.controllers", "cpu memory pids\n", 0o644)
		}},
		{"host-process", func(h *fakeHost) {
			h.put("/proc/77/status", "Name:\tx\nUid:\t1000\t1000\t1000\t1000\n", 0o644)
			if err := os.Symlink("/usr/bin/tmux", h.at("/proc/77/exe")); err != nil {
				h.t.Fatal(err)
			}
		}, put("/proc/77/status", "Uid:\t1001\t1001\n")},
		{"config", func(h *fakeHost) { h.ConfigError = errors.New("carrel.toml:1: nonsense") }, func(h *fakeHost) { h.ConfigError = nil }},
		// An empty file masks as a link to /dev/null does.
		{"systemd-user", func(h *fakeHost) {
			h.put("/etc/pam.d/common-session", "# pam_systemd.so\nsession optional\tpam_systemd.so\n", 0o644)
			h.put("/lib/systemd/system/user@.service", "[Unit]\n", 0o644)
		}, put("/etc/systemd/system/user@.service", "")},
		// The package's drop-in, and one of the administrator's that replaces it.
		{"systemd-user", func(h *fakeHost) {
			h.put("/etc/pam.d/common-session", "session optional\tpam_systemd.so\n", 0o644)
			h.put("/lib/systemd/system/user@.service", "[Unit]\n", 0o644)
			h.put("/usr/lib/systemd/system/user@.service.d/50-carrel.conf", userManager(h.t), 0o644)
			h.put("/etc/systemd/system/user@.service.d/50-carrel.conf", "[Service]\n", 0o644)
		}, func(h *fakeHost) {
			if err := os.Remove(h.at("/etc/systemd/system/user@.service.d/50-carrel.conf")); err != nil {
				h.t.Fatal(err)
			}
		}},
		{"home-owner", func(h *fakeHost) {
			if err := os.Chmod(h.at("/home/alice"), 0o775); err != nil {
				h.t.Fatal(err)
			}
		}, func(h *fakeHost) {
			if err := os.Chmod(h.at("/home/alice"), 0o755); err != nil {
				h.t.Fatal(err)
			}
		}},
	} {
		h := newHost(t)
		tt.bad(h)
		if _, findings := h.gather(); !slices.Contains(ids(findings), tt.id) {
			t.Errorf("%s is not found, only %v", tt.id, ids(findings))
		}
		tt.good(h)
		if _, findings := h.gather(); slices.Contains(ids(findings), tt.id) {
			t.Errorf("%s is still found", tt.id)
		}
	}
}

// TestHostileHome: what a user leaves in their home for root to read.
func TestHostileHome(t *testing.T) {
	h := newHost(t)
	h.put("/etc/secret", "command=\"secret\" ssh-rsa x\n", 0o600)
	h.put("/home/alice/.ssh/authorized_keys", strings.Repeat("x", maxFileBytes+1), 0o644)
	link := func(target, name string) {
		t.Helper()
		os.Remove(h.at(name))
		if err := os.Symlink(target, h.at(name)); err != nil {
			t.Fatal(err)
		}
	}
	if f, _ := h.gather(); len(f.Accounts[0].Keys) != 0 {
		t.Errorf("keys %v", f.Accounts[0].Keys)
	}
	link("../../../etc/secret", "/home/alice/.ssh/authorized_keys")
	link("/etc/secret", "/home/alice/.forward")
	if err := syscall.Mkfifo(h.at("/home/alice/.procmailrc"), 0o644); err != nil {
		t.Fatal(err)
	}
	done := make(chan bool)
	go func() {
		defer close(done)
		f, err := h.Gather(t.Context())
		if err != nil {
			t.Error(err)
			return
		}
		a := f.Accounts[0]
		if len(a.Keys) != 0 || a.DirFiles[".forward"] != "" {
			t.Errorf("a link led out of the home: %+v", a)
		}
	}()
	select {
	case <-done:
	case <-time.After(homeDeadline * 2):
		t.Fatal("a FIFO in the home hangs the doctor")
	}
	// The twin: a file of their own is read.
	os.Remove(h.at("/home/alice/.ssh/authorized_keys"))
	h.put("/home/alice/.ssh/authorized_keys", "# command=\"no\" ssh-rsa x\nssh-rsa command=no\nno-pty,command=\"a b\" ssh-ed25519 x\n", 0o600)
	f, _ := h.gather()
	if keys := f.Accounts[0].Keys; len(keys) != 1 || keys[0].Number != 3 || keys[0].Text != "command=…" {
		t.Errorf("keys %v; want line 3", keys)
	}
}

// TestUnchecked: what cannot be read is said, and no account passes for one
// without findings.
func TestUnchecked(t *testing.T) {
	h := newHost(t)
	run := h.Run
	h.Run = func(ctx context.Context, name string, args ...string) (string, error) {
		if strings.HasPrefix(strings.Join(args, " "), "-T") {
			return "", errors.New("Missing privilege separation directory: /run/sshd")
		}
		return run(ctx, name, args...)
	}
	f, err := h.Gather(t.Context())
	if err != nil || len(f.Unchecked) != 1 || !strings.Contains(f.Unchecked[0], "/run/sshd") {
		t.Errorf("unchecked %q, %v", f.Unchecked, err)
	}
	h.Users = []string{"nobody-here"}
	if _, err := h.Gather(t.Context()); err == nil {
		t.Error("an account that is not there is looked at")
	}
}

// TestFixSSHD: the drop-in is written, kept when it is there, included when it
// was not, and taken back when sshd refuses it.
func TestFixSSHD(t *testing.T) {
	h := newHost(t)
	fix := func() []Action {
		t.Helper()
		f, findings := h.gather()
		return h.Fix(t.Context(), f, findings)
	}
	said := func(actions []Action) string { return fmt.Sprint(actions) }
	actions := fix()
	if h.read(sshd.DropInPath) != sshd.DropIn(h.Carrelsh) {
		t.Errorf("the drop-in is not there: %v", actions)
	}
	if len(h.ran) != 0 { // alice is in the group already
		t.Errorf("ran %q", h.ran)
	}
	if actions := fix(); len(actions) != 0 {
		t.Errorf("the second fix did %v", actions)
	}

	t.Run("for another carrelsh", func(t *testing.T) {
		former := sshd.DropIn("/opt/carrel/bin/carrelsh")
		h.put(sshd.DropInPath, strings.ReplaceAll(former, "X11Forwarding no", "X11Forwarding yes"), 0o640)
		if actions := fix(); !strings.Contains(said(actions), "was edited") || h.read(sshd.DropInPath) == sshd.DropIn(h.Carrelsh) {
			t.Errorf("an edited one: %v; want it left alone", actions)
		}
		// As doctor finds it when what it would have set is set back elsewhere.
		h.put(sshd.DropInPath, former, 0o640)
		f, findings := h.gather()
		findings = append(findings, Finding{ID: "sshd-x11", Fix: true, Accounts: []string{"alice"}})
		actions := h.Fix(t.Context(), f, findings)
		if h.read(sshd.DropInPath) != sshd.DropIn(h.Carrelsh) || h.read(sshd.DropInPath+".before-doctor") != former {
			t.Errorf("%v", actions)
		}
		if info, err := os.Stat(h.at(sshd.DropInPath)); err != nil || info.Mode().Perm() != 0o640 {
			t.Errorf("mode %v, %v; want the former", info.Mode(), err)
		}
	})
	t.Run("not included", func(t *testing.T) {
		h.put(sshd.ConfigPath, "Port 22\n", 0o600)
		os.Remove(h.at(sshd.DropInPath))
		actions := fix()
		if got, want := h.read(sshd.ConfigPath), "Include "+sshd.DropInPath+"\nPort 22\n"; got != want {
			t.Errorf("%s: %q; want %q (%v)", sshd.ConfigPath, got, want, actions)
		}
	})
	t.Run("refused", func(t *testing.T) {
		h.put(sshd.ConfigPath, "Port 22\n", 0o600)
		os.Remove(h.at(sshd.DropInPath))
		h.refuse = func() bool { return h.exists(sshd.DropInPath) }
		if actions := fix(); !strings.Contains(said(actions), "put back as it was") {
			t.Errorf("%v", actions)
		}
		if h.exists(sshd.DropInPath) || h.read(sshd.ConfigPath) != "Port 22\n" {
			t.Errorf("left behind: %q, %q", h.read(sshd.DropInPath), h.read(sshd.ConfigPath))
		}
		h.put(sshd.DropInPath, "# mine\n", 0o644)
		h.refuse = func() bool { return false }
		if actions := fix(); h.read(sshd.DropInPath) != "# mine\n" || h.read(sshd.ConfigPath) != "Port 22\n" || slices.Contains(h.ran, "gpasswd -a alice carrel") {
			t.Errorf("an edited drop-in, or what goes with it, was changed: %v", actions)
		}
	})
	t.Run("refused before", func(t *testing.T) {
		os.Remove(h.at(sshd.DropInPath))
		h.refuse = func() bool { return true }
		if actions := fix(); !strings.Contains(said(actions), "nothing was changed") || h.exists(sshd.DropInPath) {
			t.Errorf("%v", actions)
		}
	})
	t.Run("not in the group", func(t *testing.T) {
		h.refuse = func() bool { return false }
		h.put("/etc/group", "alice:x:1000:\n", 0o644)
		fix()
		if !slices.Contains(h.ran, "gpasswd -a alice carrel") {
			t.Errorf("ran %q", h.ran)
		}
	})
}

// userManager is the package's drop-in.
func userManager(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile("../../packaging/user-manager.conf")
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// TestFixSystemd: the link is what masks; a systemd that runs is told.
func TestFixSystemd(t *testing.T) {
	for _, running := range []bool{false, true} {
		h := newHost(t)
		h.put(sshd.DropInPath, sshd.DropIn(h.Carrelsh), 0o644)
		h.put("/etc/pam.d/sshd", "session optional pam_systemd.so\n", 0o644)
		h.put("/lib/systemd/system/user@.service", "[Unit]\n", 0o644)
		h.put("/var/lib/systemd/linger/alice", "", 0o644)
		var want []string
		if running {
			h.put("/run/systemd/system/x", "", 0o644)
			want = []string{"systemctl daemon-reload", "systemctl stop user@1000.service", "loginctl disable-linger alice"}
		}
		f, findings := h.gather()
		if diff := cmp.Diff([]string{"systemd-user", "linger", "cgroup-v1"}, ids(findings)); diff != "" {
			t.Errorf("findings (-want +got):\n%s", diff)
		}
		h.Fix(t.Context(), f, findings)
		if diff := cmp.Diff(want, h.ran); diff != "" {
			t.Errorf("ran (-want +got):\n%s", diff)
		}
		if _, findings := h.gather(); len(findings) != 1 {
			t.Errorf("after the fix: %v", ids(findings))
		}
		if target, err := os.Readlink(h.at("/etc/systemd/system/user@1000.service")); target != "/dev/null" {
			t.Errorf("the unit is a link to %q, %v", target, err)
		}
	}
}

// TestFixFiles: owners and modes, which need root.
func TestFixFiles(t *testing.T) {
	testneed.Root(t)
	h := newHost(t)
	h.put(sshd.DropInPath, sshd.DropIn(h.Carrelsh), 0o644)
	h.put("/usr/bin/carrelsh", "", 0o755|os.ModeSetuid)
	h.put("/usr/libexec/carrel/carrel-init", "", 0o755)
	h.put("/usr/libexec/carrel/carrel-runtime", "", 0o700)
	if err := os.Chown(h.at("/usr/libexec/carrel/carrel-runtime"), 1000, 1000); err != nil {
		t.Fatal(err)
	}
	h.put("/var/lib/carrel/images/x", "", 0o644)
	h.put("/etc/cron.allow", "alice\nbob\n", 0o600)
	h.put("/usr/bin/crontab", "", 0o755)
	h.put("/etc/shells", "# shells\n/bin/bash\n/usr/bin/carrelsh\n", 0o644)
	h.put("/proc/sys/dev/tty/legacy_tiocsti", "1\n", 0o644)
	f, findings := h.gather()
	want := []string{"set-id", "state-mode", "cron-allowed", "shells", "file-mode", "cgroup-v1", "tiocsti"}
	if diff := cmp.Diff(want, slices.Compact(ids(findings))); diff != "" {
		t.Errorf("findings (-want +got):\n%s", diff)
	}
	for _, action := range h.Fix(t.Context(), f, findings) {
		if action.Error != "" {
			t.Error(action)
		}
	}
	if _, findings = h.gather(); !slices.Equal(ids(findings), []string{"cgroup-v1"}) {
		t.Errorf("after the fix: %+v", findings)
	}
	for file, want := range map[string]string{
		"/etc/cron.allow": "bob\n", "/etc/shells": "# shells\n/bin/bash\n", sysctlFile: "dev.tty.legacy_tiocsti = 0\n",
	} {
		if got := h.read(file); got != want {
			t.Errorf("%s: %q; want %q", file, got, want)
		}
	}
	if info, err := os.Stat(h.at("/etc/cron.allow")); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("cron.allow: %v, %v; want its former mode", info.Mode(), err)
	}
}

// TestFixKeeps: what is rewritten keeps its owner and group, a link stays a
// link, and what cannot be read whole is not written.
func TestFixKeeps(t *testing.T) {
	testneed.Root(t)
	h := newHost(t)
	h.put("/etc/managed/at.deny", "bob\n", 0o640)
	if err := os.Chown(h.at("/etc/managed/at.deny"), 0, 1); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("managed/at.deny", h.at("/etc/at.deny")); err != nil {
		t.Fatal(err)
	}
	large := strings.Repeat("someone\n", maxFileBytes/8) + "zoe\n"
	h.put("/etc/cron.deny", large, 0o640)
	x := &fixer{Gatherer: h.Gatherer}
	x.forbid("at", []string{"alice"})
	x.forbid("cron", []string{"alice"})
	if len(x.actions) != 2 || x.actions[0].Error != "" || !strings.Contains(x.actions[1].Error, "larger than") {
		t.Errorf("%+v; want at.deny changed and cron.deny left alone", x.actions)
	}
	var st unix.Stat_t
	if err := unix.Stat(h.at("/etc/managed/at.deny"), &st); err != nil || st.Gid != 1 || st.Mode&0o777 != 0o640 {
		t.Errorf("at.deny has gid %d, mode %o, %v; want 1 and 640", st.Gid, st.Mode&0o777, err)
	}
	if got, err := os.Readlink(h.at("/etc/at.deny")); err != nil || h.read("/etc/at.deny") != "bob\nalice\n" {
		t.Errorf("at.deny is a link to %q, %v, with %q", got, err, h.read("/etc/at.deny"))
	}
	if h.read("/etc/cron.deny") != large {
		t.Error("cron.deny was changed")
	}
}

// TestFixSpares: an account that logs in to the host, and whose group a rule
// names, is not locked into a container; nor is a directory above Carrel's files
// taken from its owner.
func TestFixSpares(t *testing.T) {
	testneed.Root(t)
	h := newHost(t)
	h.put(sshd.DropInPath, sshd.DropIn(h.Carrelsh), 0o644)
	h.Config.Rules = []config.Rule{{Groups: []string{"bob"}, Line: 7}}
	h.put("/usr/bin/crontab", "", 0o755)
	h.put("/etc/cron.deny", "", 0o644)
	h.put("/opt/src/bin/carrelsh", "", 0o755)
	h.Carrelsh = "/opt/src/bin/carrelsh"
	if err := os.Chown(h.at("/opt/src"), 1001, 1001); err != nil {
		t.Fatal(err)
	}
	f, findings := h.gather()
	if !slices.ContainsFunc(findings, func(f Finding) bool { return f.ID == "cron-allowed" && slices.Contains(f.Accounts, "bob") }) {
		t.Fatalf("findings %+v; want bob among cron-allowed", findings)
	}
	actions := h.Fix(t.Context(), f, findings)
	if got := h.read("/etc/cron.deny"); got != "alice\n" {
		t.Errorf("cron.deny: %q; want alice alone", got)
	}
	if slices.Contains(h.ran, "gpasswd -a bob carrel") {
		t.Errorf("ran %q", h.ran)
	}
	var st unix.Stat_t
	if err := unix.Stat(h.at("/opt/src"), &st); err != nil || st.Uid != 1001 {
		t.Errorf("/opt/src belongs to %d now, %v", st.Uid, err)
	}
	for _, want := range []string{"bob is left alone", "/opt/src, which is above Carrel's files, is left alone"} {
		if n := strings.Count(fmt.Sprint(actions), want); n != 1 {
			t.Errorf("%d times %q in %v; want 1", n, want, actions)
		}
	}
	// The twin: who is named themselves is meant.
	h.Config.Rules[0].Users = []string{"bob"}
	f, findings = h.gather()
	h.Fix(t.Context(), f, findings)
	if got := h.read("/etc/cron.deny"); got != "alice\nbob\n" {
		t.Errorf("cron.deny: %q; want bob, too", got)
	}
}

func TestTableUser(t *testing.T) {
	for line, want := range map[string]string{
		"* * * * * bob true": "bob", "17 *\t* * *\troot cd / && run-parts": "root", "@daily bob x y": "bob",
		"SHELL=/bin/sh": "", "PATH=a b c d e f g": "", "* * * * * true": "", "@daily x": "",
	} {
		if got := tableUser(line); got != want {
			t.Errorf("tableUser(%q) = %q; want %q", line, got, want)
		}
	}
}
