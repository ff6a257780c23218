package doctor

import (
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pkg/sftp"
	"golang.org/x/crypto/ssh"
	"golang.org/x/sys/unix"

	"github.com/carrel-sh/carrel/test/internal/host"
)

// fixed runs --fix, waits until sshd has read its configuration, and demands
// that the findings are gone.
func (m *machine) fixed(t *testing.T, a host.Account, ids ...string) {
	t.Helper()
	var r report
	m.reload(t, func() { r = m.doctor(t, []host.Account{a}, "--fix") })
	for _, id := range ids {
		r.wantNone(t, id, a)
	}
}

// serveText serves a text to whoever connects, until the test ends.
func serveText(t *testing.T, l net.Listener, text string) {
	t.Helper()
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = io.WriteString(conn, text)
			conn.Close()
		}
	}()
}

// TestForwarding reaches a service on the host's loopback, and a Unix socket
// that admits nobody but the user, as that of systemd --user does.
func TestForwarding(t *testing.T) {
	m := setup(t)
	m.serve(t, "")
	tcp, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	serveText(t, tcp, "canary of the host")
	socket := filepath.Join("/run", "bus-"+m.alice.Name)
	local, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	serveText(t, local, "canary of the host")
	shell(t, fmt.Sprintf("chown %s %s; chmod 600 %[2]s", m.alice.Name, socket))
	doors := map[string]func(*ssh.Client) error{
		"ssh -L port": func(c *ssh.Client) error { return readCanary(c.Dial("tcp", tcp.Addr().String())) },
		"ssh -L path": func(c *ssh.Client) error { return readCanary(c.Dial("unix", socket)) },
		"ssh -R port": func(c *ssh.Client) error {
			l, err := c.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				return err
			}
			defer l.Close()
			conn, err := net.Dial("tcp", l.Addr().String()) // it is the host's
			if err == nil {
				conn.Close()
			}
			return err
		},
		"ssh -R path": func(c *ssh.Client) error {
			path := "/tmp/canary-" + m.alice.Name
			defer os.Remove(path)
			l, err := c.ListenUnix(path)
			if err != nil {
				return err
			}
			defer l.Close()
			_, err = os.Stat(path)
			return err
		},
	}
	for name, door := range doors {
		if err := door(m.dial(t, m.alice)); err != nil {
			t.Errorf("%s, by Debian's defaults: %v; want the hole to be open", name, err)
		}
	}
	r := m.doctor(t, nil)
	r.want(t, "sshd-tcp-forwarding", "critical", m.alice)
	r.want(t, "sshd-stream-forwarding", "critical", m.alice)
	m.fixed(t, m.alice, "sshd-tcp-forwarding", "sshd-stream-forwarding")
	for name, door := range doors {
		if err := door(m.dial(t, m.alice)); err == nil {
			t.Errorf("%s is still open", name)
		}
	}
	// The plain account keeps it: it is not Carrel's.
	if err := doors["ssh -L port"](m.dial(t, m.plain)); err != nil {
		t.Errorf("plain: %v", err)
	}
}

func readCanary(conn net.Conn, err error) error {
	if err != nil {
		return err
	}
	defer conn.Close()
	text, err := io.ReadAll(conn)
	if err == nil && string(text) != "canary of the host" {
		err = fmt.Errorf("read %q", text)
	}
	return err
}

// TestForwardingRemedy applies the lines that are printed, not --fix.
func TestForwardingRemedy(t *testing.T) {
	m := setup(t)
	m.serve(t, "")
	ids := []string{"sshd-tcp-forwarding", "sshd-stream-forwarding", "sshd-x11", "sshd-user-rc", "sshd-idle-connections"}
	before := m.doctor(t, nil)
	for _, id := range ids {
		severity := map[string]string{"sshd-user-rc": "warning", "sshd-idle-connections": "notice"}[id]
		if severity == "" {
			severity = "critical"
		}
		before.want(t, id, severity, m.alice).apply(t)
	}
	after := m.doctor(t, nil)
	for _, id := range ids {
		after.wantNone(t, id, m.alice)
		after.wantNone(t, id, m.bob)
	}
}

// TestException: what sshd allows from one network only is seen, too.
func TestException(t *testing.T) {
	m := setup(t)
	m.serve(t, "")
	m.fixed(t, m.alice, "sshd-tcp-forwarding")
	// It sorts before the drop-in, so it wins.
	write(t, "/etc/ssh/sshd_config.d/10-office.conf", "Match Address 10.0.0.0/8\n\tAllowTcpForwarding yes\n\tPermitOpen any\n", 0o644)
	f := m.doctor(t, nil).want(t, "sshd-tcp-forwarding", "critical", m.alice)
	if all := strings.Join(f.Evidence, "\n"); !strings.Contains(all, "addr=10.0.0.0,") || !strings.Contains(all, "10-office.conf:2") {
		t.Errorf("evidence %q", f.Evidence)
	}
	shell(t, "rm /etc/ssh/sshd_config.d/10-office.conf")
	m.doctor(t, nil).wantNone(t, "sshd-tcp-forwarding", m.alice)
}

// TestStale: lines that a person wrote, and forgot to have read, are not what
// sshd does.
func TestStale(t *testing.T) {
	m := setup(t)
	m.serve(t, "")
	m.doctor(t, nil).wantNone(t, "sshd-stale", host.Account{})
	left := func() bool {
		cookie := m.alice.Home + "/.Xauthority"
		os.Remove(cookie)
		host.Run(m.ssh(m.alice, "true", "-Y"))
		_, err := os.Stat(cookie)
		return err == nil
	}
	time.Sleep(20 * time.Millisecond) // more than a tick of the file system's clock
	m.doctor(t, nil).want(t, "sshd-x11", "critical", m.alice).apply(t)
	r := m.doctor(t, nil)
	r.wantNone(t, "sshd-x11", m.alice)
	if !left() {
		t.Error("sshd has read its configuration: is the finding true?")
	}
	stale := r.want(t, "sshd-stale", "warning", host.Account{})
	m.reload(t, func() { stale.apply(t) })
	m.doctor(t, nil).wantNone(t, "sshd-stale", host.Account{})
	if left() {
		t.Error("sshd still forwards X11")
	}
	shell(t, "touch /etc/ssh/sshd_config")
	m.doctor(t, nil).want(t, "sshd-stale", "warning", host.Account{})
	m.doctor(t, nil, "--fix").wantNone(t, "sshd-stale", host.Account{})
}

// TestTunnel has sshd open a tunnel device of the host's that the user owns.
func TestTunnel(t *testing.T) {
	m := setup(t)
	m.serve(t, "PermitTunnel yes")
	// As udev makes it; the real machine's may be root's alone.
	if err := unix.Mount("tun", "/dev/net", "tmpfs", 0, "mode=755"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount("/dev/net", unix.MNT_DETACH) })
	shell(t, "mknod -m 666 /dev/net/tun c 10 200")
	shell(t, "ip tuntap add dev tun7 mode tun user "+m.alice.Name)
	t.Cleanup(func() { shell(t, "ip link delete tun7") })
	open := func() error {
		// PROTOCOL, section 2.3: mode 1 is point to point.
		payload := ssh.Marshal(struct{ Mode, Unit uint32 }{1, 7})
		channel, _, err := m.dial(t, m.alice).OpenChannel("tun@openssh.com", payload)
		if err == nil {
			channel.Close()
		}
		return err
	}
	if err := open(); err != nil {
		t.Errorf("with PermitTunnel: %v; want the hole to be open", err)
	}
	m.doctor(t, nil).want(t, "sshd-tunnel", "critical", m.alice)
	m.fixed(t, m.alice, "sshd-tunnel")
	if open() == nil {
		t.Error("the tunnel is still open")
	}
}

// TestSFTP reads a file that only the host has.
func TestSFTP(t *testing.T) {
	m := setup(t)
	m.serve(t, "Subsystem sftp internal-sftp")
	const canary = "/etc/canary-of-the-host"
	write(t, canary, "canary", 0o644)
	read := func(a host.Account) error {
		client, err := sftp.NewClient(m.dial(t, a))
		if err != nil {
			return err
		}
		defer client.Close()
		f, err := client.Open(canary)
		if err == nil {
			f.Close()
		}
		return err
	}
	if err := read(m.alice); err != nil {
		t.Errorf("internal-sftp: %v; want the hole to be open", err)
	}
	m.doctor(t, nil).want(t, "sshd-sftp", "critical", m.alice)
	m.fixed(t, m.alice, "sshd-sftp")
	if err := read(m.alice); !os.IsNotExist(err) {
		t.Errorf("after the fix: %v; want sftp to work, and the file not to exist", err)
	}
	if err := read(m.plain); err != nil {
		t.Errorf("plain: %v", err)
	}
}

// TestX11 sees xauth run on the host: it leaves ~/.Xauthority there.
func TestX11(t *testing.T) {
	m := setup(t)
	m.serve(t, "")
	left := func() bool {
		cookie := m.alice.Home + "/.Xauthority"
		os.Remove(cookie)
		if r := host.Run(m.ssh(m.alice, "true", "-Y")); r.Code != 0 {
			t.Errorf("ssh -Y: %v", r)
		}
		_, err := os.Stat(cookie)
		return err == nil
	}
	if !left() {
		t.Error("xauth left nothing on the host: is the hole not open?")
	}
	m.doctor(t, nil).want(t, "sshd-x11", "critical", m.alice)
	m.fixed(t, m.alice, "sshd-x11")
	if left() {
		t.Error("xauth still runs on the host")
	}
}

// TestAcceptEnv loads a library from a private home into what sshd starts on
// the host: it lies where the host's kernel finds it by its path.
func TestAcceptEnv(t *testing.T) {
	m := setup(t)
	m.serve(t, "AcceptEnv *")
	p := m.perch(t, m.alice)
	m.plant(t, m.alice, "canary.so", p.library(t, "LD_PRELOAD"), "755")
	private := m.private(m.alice) + "/canary.so"
	m.openHomes(t)
	sings := func() []string {
		p.clear(t)
		r := host.Run(m.ssh(m.alice, "true", "-Y", "-o", "SetEnv=LD_PRELOAD="+private))
		if r.Code != 0 {
			t.Errorf("ssh: %v", r)
		}
		onHost, _ := p.sang(t)
		return onHost
	}
	if len(sings()) == 0 {
		t.Error("no canary on the host: is the hole not open?")
	}
	m.doctor(t, nil).want(t, "sshd-accept-env", "critical", m.alice)
	m.fixed(t, m.alice, "sshd-accept-env")
	if got := sings(); len(got) > 0 {
		t.Errorf("on the host: %q", got)
	}
}

// TestUserEnvironment: the container writes ~/.ssh/environment, sshd sets it,
// and starts the host's /bin/sh for ~/.ssh/rc.
func TestUserEnvironment(t *testing.T) {
	m := setup(t)
	m.serve(t, "PermitUserEnvironment yes")
	p := m.perch(t, m.harry)
	m.plant(t, m.harry, "canary.so", p.library(t, "environment"), "755")
	m.plant(t, m.harry, ".ssh/environment", []byte("LD_PRELOAD="+m.harry.Home+"/canary.so\n"), "600")
	m.plant(t, m.harry, ".ssh/rc", []byte("cat >/dev/null\n"), "600")
	sings := func() []string {
		p.clear(t)
		if r := host.Run(m.ssh(m.harry, "true")); r.Code != 0 {
			t.Errorf("ssh: %v", r)
		}
		onHost, _ := p.sang(t)
		return onHost
	}
	if len(sings()) == 0 {
		t.Error("no canary on the host: is the hole not open?")
	}
	r := m.doctor(t, nil)
	r.want(t, "sshd-user-environment", "critical", m.harry)
	r.want(t, "sshd-user-rc", "warning", m.harry)
	m.fixed(t, m.harry, "sshd-user-environment", "sshd-user-rc")
	if got := sings(); len(got) > 0 {
		t.Errorf("on the host: %q", got)
	}
}

// TestPAMEnvironment is the same by ~/.pam_environment, which Debian's PAM
// reads for sshd, and X11, which Debian's sshd forwards: no line of either was
// changed.
func TestPAMEnvironment(t *testing.T) {
	m := setup(t)
	m.serve(t, "")
	p := m.perch(t, m.harry)
	m.plant(t, m.harry, "canary.so", p.library(t, "pam_env"), "755")
	m.plant(t, m.harry, ".pam_environment", []byte("LD_PRELOAD DEFAULT="+m.harry.Home+"/canary.so\n"), "600")
	sings := func() []string {
		p.clear(t)
		if r := host.Run(m.ssh(m.harry, "true", "-Y")); r.Code != 0 {
			t.Errorf("ssh: %v", r)
		}
		onHost, _ := p.sang(t)
		return onHost
	}
	if len(sings()) == 0 {
		t.Error("no canary on the host: is the hole not open?")
	}
	before := m.doctor(t, nil).want(t, "pam-user-env", "critical", m.harry)
	if m.doctor(t, nil).find("pam-user-env", m.alice.Name) != nil {
		t.Error("pam-user-env is found for alice, whose home the container does not write")
	}
	before.apply(t)
	m.doctor(t, nil).wantNone(t, "pam-user-env", m.harry)
	if got := sings(); len(got) > 0 {
		t.Errorf("on the host: %q", got)
	}
}

// TestLoginShell: ForceCommand does not contain an account whose shell is
// bash. What runs first is the ~/.bashrc that the container wrote.
func TestLoginShell(t *testing.T) {
	m := setup(t)
	m.serve(t, fmt.Sprintf("Match User %s\n\tForceCommand %s\n", m.frank.Name, m.Path("carrelsh")))
	p := m.perch(t, m.frank)
	if r := m.In(m.frank, fmt.Sprintf("cd; cp .bashrc old; echo '%s' >.bashrc", p.line("bashrc")), nil); r.Code != 0 {
		t.Fatalf("plant: %v", r)
	}
	defer m.In(m.frank, "cd; mv old .bashrc", nil)
	sings := func() []string {
		p.clear(t)
		r := host.Run(m.ssh(m.frank, "readlink /proc/self/ns/mnt"))
		if r.Code != 0 || strings.TrimSpace(r.Stdout) == m.place {
			t.Errorf("ssh: %v; want the command itself to be inside", r)
		}
		onHost, _ := p.sang(t)
		return onHost
	}
	if len(sings()) == 0 {
		t.Error("no canary on the host: is the hole not open?")
	}
	m.doctor(t, nil).want(t, "login-shell", "critical", m.frank).apply(t)
	m.doctor(t, nil).wantNone(t, "login-shell", m.frank)
	if got := sings(); len(got) > 0 {
		t.Errorf("on the host: %q", got)
	}
}

// TestUserRC: a key may force carrelsh upon an account whose shell is bash. Its
// ~/.ssh/rc, which the container writes, runs first.
func TestUserRC(t *testing.T) {
	m := setup(t)
	m.serve(t, "")
	m.authorize(t, m.frank, fmt.Sprintf("command=%q", m.Path("carrelsh")))
	p := m.perch(t, m.frank)
	m.plant(t, m.frank, ".ssh/rc", []byte(p.line("rc")+"\n"), "600")
	sings := func() []string {
		p.clear(t)
		r := host.Run(m.ssh(m.frank, "readlink /proc/self/ns/mnt"))
		if r.Code != 0 || strings.TrimSpace(r.Stdout) == m.place {
			t.Errorf("ssh: %v; want the command itself to be inside", r)
		}
		onHost, _ := p.sang(t)
		return onHost
	}
	if !slices.Contains(sings(), "rc") {
		t.Error("no canary on the host: is the hole not open?")
	}
	m.doctor(t, nil).want(t, "sshd-user-rc", "critical", m.frank)
	m.fixed(t, m.frank, "sshd-user-rc")
	if got := sings(); len(got) > 0 {
		t.Errorf("on the host: %q", got)
	}
}

// TestSystemRC: /etc/ssh/sshrc runs on the host, ForceCommand or not.
func TestSystemRC(t *testing.T) {
	m := setup(t)
	m.serve(t, "")
	m.fixed(t, m.alice, "sshd-x11")
	p := m.perch(t, m.alice)
	write(t, "/etc/ssh/sshrc", p.line("sshrc")+"\n", 0o644)
	sings := func() []string {
		p.clear(t)
		if r := host.Run(m.ssh(m.alice, "true")); r.Code != 0 {
			t.Errorf("ssh: %v", r)
		}
		onHost, _ := p.sang(t)
		return onHost
	}
	if len(sings()) == 0 {
		t.Error("no canary on the host: is the hole not open?")
	}
	m.doctor(t, nil).want(t, "sshd-rc", "warning", m.alice).apply(t)
	m.doctor(t, nil).wantNone(t, "sshd-rc", m.alice)
	if got := sings(); len(got) > 0 {
		t.Errorf("on the host: %q", got)
	}
}

// TestKeyCommand: a key for one command opens a session under ForceCommand.
func TestKeyCommand(t *testing.T) {
	m := setup(t)
	m.serve(t, "")
	m.authorize(t, m.bob, `command="echo restricted",no-pty`)
	whole := func() bool {
		r := host.Run(m.ssh(m.bob, "echo whole"))
		if r.Code != 0 {
			t.Errorf("ssh: %v", r)
		}
		return r.Stdout == "whole\n"
	}
	if whole() {
		t.Error("the key is not restricted without the drop-in")
	}
	m.doctor(t, nil).wantNone(t, "sshd-key-command", m.bob)
	m.fixed(t, m.bob, "sshd-x11")
	if !whole() {
		t.Error("ForceCommand does not override the key: is the finding true?")
	}
	f := m.doctor(t, nil).want(t, "sshd-key-command", "warning", m.bob)
	if !strings.Contains(f.Evidence[0], "authorized_keys:1") {
		t.Errorf("evidence %q", f.Evidence)
	}
	f.apply(t)
	m.reload(t, func() { shell(t, "kill -HUP $(cat /run/sshd.pid)") })
	m.doctor(t, nil).wantNone(t, "sshd-key-command", m.bob)
	if whole() {
		t.Error("the key is still not restricted")
	}
}

// TestAgent is the twin of all that is refused: what the drop-in lets through.
func TestAgent(t *testing.T) {
	m := setup(t)
	m.serve(t, "")
	m.fixed(t, m.alice, "sshd-x11")
	agent := host.Run(exec.Command("ssh-agent", "-s", "-a", "/run/agent"))
	pid := strings.TrimSuffix(agent.Stdout[strings.LastIndex(agent.Stdout, " ")+1:], ";\n")
	t.Cleanup(func() { shell(t, "kill "+pid) })
	shell(t, "SSH_AUTH_SOCK=/run/agent ssh-add -q "+keyPath)
	cmd := m.ssh(m.alice, "readlink /proc/self/ns/mnt; ssh-add -l", "-A")
	cmd.Env = append(cmd.Env, "SSH_AUTH_SOCK=/run/agent")
	r := host.Run(cmd)
	if r.Code != 0 || !strings.Contains(r.Stdout, "ED25519") || strings.Contains(r.Stdout, m.place) {
		t.Errorf("ssh -A: %v; want the agent's key, inside", r)
	}
}

// TestShells: su -s obeys whoever knows the password, as long as carrelsh is
// listed.
func TestShells(t *testing.T) {
	m := setup(t)
	shell(t, fmt.Sprintf("echo %s:sesame | chpasswd; echo %s >>/etc/shells", m.alice.Name, m.Path("carrelsh")))
	where := func() string {
		term, err := host.OnTerminal(as(m.plain, "su", "-s", "/bin/sh", m.alice.Name, "-c", "echo at $(readlink /proc/self/ns/mnt)"), 24, 80)
		if err != nil {
			t.Fatal(err)
		}
		defer term.Close()
		if _, err := term.Expect("(?i)password: "); err != nil {
			t.Fatal(err)
		}
		got, err := term.Ask("sesame", `at (mnt:\S+)`)
		if err != nil {
			t.Fatal(err)
		}
		term.Wait()
		return got
	}
	if got := where(); got != m.place {
		t.Errorf("su -s ran in %s; want the host, %s: is the hole not open?", got, m.place)
	}
	r := m.doctor(t, nil)
	r.want(t, "shells", "warning", host.Account{})
	shells := shell(t, "cat /etc/shells")
	r.find("shells", "").apply(t)
	m.doctor(t, nil).wantNone(t, "shells", host.Account{})
	write(t, "/etc/shells", shells, 0o644)
	if r := m.doctor(t, nil, "--fix"); r.find("shells", "") != nil {
		t.Errorf("after --fix: %v", r.ids())
	}
	if got := where(); got == m.place {
		t.Error("su -s still runs on the host")
	}
	if !strings.Contains(shell(t, "cat /etc/shells"), "/bin/bash\n") {
		t.Error("--fix removed other shells")
	}
}

// TestCron: a job that the account has on the host runs there, by /bin/sh,
// whatever its login shell is.
func TestCron(t *testing.T) {
	m := setup(t)
	p := m.perch(t, m.alice)
	job := p.line("cron")
	// Whoever is let through a hole once may come to stay.
	crontab := func() host.Result {
		cmd := as(m.alice, "crontab", "-")
		cmd.Stdin = strings.NewReader("@reboot " + job + "\n")
		return host.Run(cmd)
	}
	if r := crontab(); r.Code != 0 {
		t.Fatalf("crontab: %v; want it to be allowed by Debian's defaults", r)
	}
	t.Cleanup(func() { os.Remove("/var/spool/cron/crontabs/" + m.alice.Name) })
	// At its start cron runs the jobs of the boot, unless this file is there.
	sings := func() []string {
		p.clear(t)
		os.Remove("/run/crond.reboot")
		cron := exec.Command("/usr/sbin/cron", "-f")
		if err := cron.Start(); err != nil {
			t.Fatal(err)
		}
		defer func() { _ = cron.Process.Kill(); _ = cron.Wait() }()
		var onHost []string
		for end := time.Now().Add(5 * time.Second); len(onHost) == 0 && time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
			onHost, _ = p.sang(t)
		}
		return onHost
	}
	if len(sings()) == 0 {
		t.Error("no canary on the host: is the hole not open?")
	}
	r := m.doctor(t, []host.Account{m.alice})
	r.want(t, "cron-job", "critical", m.alice).apply(t)
	r.want(t, "cron-allowed", "warning", m.alice).apply(t)
	r = m.doctor(t, nil)
	r.wantNone(t, "cron-job", m.alice)
	r.wantNone(t, "cron-allowed", m.alice)
	if r := crontab(); r.Code == 0 {
		t.Error("crontab still takes a job")
	}
	if got := sings(); len(got) > 0 {
		t.Errorf("on the host: %q", got)
	}
	r.want(t, "cron-allowed", "warning", m.bob) // the remedy was for alice
	m.doctor(t, nil, "--fix").wantNone(t, "cron-allowed", m.bob)
	// A list of those who may.
	write(t, "/etc/cron.allow", m.alice.Name+"\nroot\n", 0o644)
	m.doctor(t, nil).want(t, "cron-allowed", "warning", m.alice).apply(t)
	m.doctor(t, nil).wantNone(t, "cron-allowed", m.alice)
	// And a job in one of the system's tables.
	write(t, "/etc/cron.d/canary", "SHELL=/bin/sh\n* * * * * "+m.bob.Name+" true\n@daily root true\n", 0o644)
	f := m.doctor(t, nil).want(t, "cron-job", "critical", m.bob)
	if len(f.Evidence) != 1 || !strings.HasPrefix(f.Evidence[0], "/etc/cron.d/canary:2") {
		t.Errorf("evidence %q", f.Evidence)
	}
	shell(t, "sed -i 2d /etc/cron.d/canary")
	m.doctor(t, nil).wantNone(t, "cron-job", m.bob)
}

// TestAt is the same for at(1).
func TestAt(t *testing.T) {
	m := setup(t)
	p := m.perch(t, m.alice)
	at := func() host.Result {
		cmd := as(m.alice, "at", "now")
		cmd.Stdin = strings.NewReader(p.line("at") + "\n")
		return host.Run(cmd)
	}
	sings := func() []string {
		p.clear(t)
		atd := exec.Command("/usr/sbin/atd", "-f")
		if err := atd.Start(); err != nil {
			t.Fatal(err)
		}
		defer func() { _ = atd.Process.Kill(); _ = atd.Wait() }()
		var onHost []string
		for end := time.Now().Add(4 * time.Second); len(onHost) == 0 && time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
			onHost, _ = p.sang(t)
		}
		return onHost
	}
	if r := at(); r.Code != 0 {
		t.Fatalf("at: %v; want it to be allowed by Debian's defaults", r)
	}
	m.doctor(t, nil).want(t, "at-job", "critical", m.alice)
	if len(sings()) == 0 {
		t.Error("no canary on the host: is the hole not open?")
	}
	if r := at(); r.Code != 0 {
		t.Fatalf("at: %v", r)
	}
	r := m.doctor(t, []host.Account{m.alice})
	r.want(t, "at-job", "critical", m.alice).apply(t)
	r.want(t, "at-allowed", "warning", m.alice).apply(t)
	r = m.doctor(t, nil)
	r.wantNone(t, "at-job", m.alice)
	r.wantNone(t, "at-allowed", m.alice)
	if got := sings(); len(got) > 0 {
		t.Errorf("on the host: %q", got)
	}
	if r := at(); r.Code == 0 {
		t.Error("at still takes a job")
	}
	r.want(t, "at-allowed", "warning", m.bob)
	m.doctor(t, nil, "--fix").wantNone(t, "at-allowed", m.bob)
}

// TestMail has Exim deliver to an account whose .forward the container wrote.
func TestMail(t *testing.T) {
	m := setup(t)
	p := m.perch(t, m.harry)
	m.plant(t, m.harry, "canary.sh", []byte("#!/bin/sh\n"+p.line("forward")+"\n"), "755")
	m.plant(t, m.harry, ".forward", []byte("|"+m.harry.Home+"/canary.sh\n"), "600")
	sings := func() []string {
		p.clear(t)
		deliver(t, m.harry)
		onHost, _ := p.sang(t)
		return onHost
	}
	if len(sings()) == 0 {
		t.Error("no canary on the host: is the hole not open?")
	}
	f := m.doctor(t, nil).want(t, "mail-forward", "critical", m.harry)
	if m.doctor(t, nil).find("mail-forward", m.alice.Name) != nil {
		t.Error("mail-forward is found for alice, who has no .forward on the host")
	}
	// The remedy for the file alone leaves the container able to write another.
	f.apply(t)
	if got := sings(); len(got) > 0 {
		t.Errorf("on the host: %q", got)
	}
	m.doctor(t, nil).want(t, "mail-forward", "critical", m.harry)
	// The other one, home = "private", is what alice has.
	put(t, m.alice, ".forward", "|/bin/true\n", 0o600)
	m.doctor(t, nil).want(t, "mail-forward", "critical", m.alice).apply(t)
	m.doctor(t, nil).wantNone(t, "mail-forward", m.alice)
}

// deliver sends a mail to the account, and waits for its delivery.
func deliver(t *testing.T, a host.Account) {
	t.Helper()
	cmd := exec.Command("/usr/sbin/exim4", "-odi", "-f", "root", a.Name+"@localhost")
	cmd.Stdin = strings.NewReader("Subject: canary\n\nsing\n")
	if r := host.Run(cmd); r.Code != 0 {
		t.Fatalf("exim4: %v", r)
	}
}

// TestHostProcess leaves a process of alice's on the host.
func TestHostProcess(t *testing.T) {
	m := setup(t)
	m.doctor(t, nil).wantNone(t, "host-process", m.alice)
	cmd := as(m.alice, "sleep", "60")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }()
	// A session's own carrelsh is none.
	session := m.Direct(m.alice, "-c", "echo ready; sleep 60")
	out, err := session.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := session.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = session.Process.Kill(); _ = session.Wait() }()
	if _, err := out.Read(make([]byte, 5)); err != nil {
		t.Fatal(err)
	}
	f := m.doctor(t, []host.Account{m.alice}).want(t, "host-process", "critical", m.alice)
	if len(f.Evidence) != 1 || !strings.HasPrefix(f.Evidence[0], fmt.Sprintf("pid %d (", cmd.Process.Pid)) {
		t.Fatalf("evidence %q; want pid %d alone", f.Evidence, cmd.Process.Pid)
	}
	f.apply(t)
	_ = cmd.Wait()
	m.doctor(t, nil).wantNone(t, "host-process", m.alice)
}
