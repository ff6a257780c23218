//go:build vm

package vm

import (
	"bufio"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/carrel-sh/carrel/internal/testneed"
	"github.com/carrel-sh/carrel/session"
	"github.com/carrel-sh/carrel/test/internal/host"
)

// suites are the releases of Debian that Carrel is tried on.
var suites = []string{"bookworm", "trixie"}

// TestSystemd lives through the life of Carrel on one machine of each release,
// from the first line of the README's "Install" to purge. Each part finds the
// machine as the part before it has left it.
func TestSystemd(t *testing.T) {
	for _, suite := range suites {
		t.Run(suite, func(t *testing.T) { life(t, suite) })
	}
}

func life(t *testing.T, suite string) {
	testneed.Root(t)
	seed := t.TempDir()
	for _, p := range packages(t) {
		run(t, "cp", p, seed)
	}
	begin := time.Now()
	m := boot(t, image(t, suite), seed, "")
	m.up(t, 5*time.Minute)
	if got := m.root(t, "stat -fc %T /sys/fs/cgroup; ps -o comm= -p 1"); got != "cgroup2fs\nsystemd" {
		t.Fatalf("the machine has %q", got)
	}
	m.before = m.root(t, snapshot)
	for _, part := range []struct {
		name string
		f    func(*testing.T, *machine)
	}{
		{"readme", readme}, {"first login", firstLogin}, {"doors", doors}, {"accounting", accounting}, {"journal", theJournal},
		{"limits", limits}, {"restart", restart}, {"watchdog", watchdog}, {"mistake", mistake}, {"drop-in", dropIn}, {"upgrade", upgrade}, {"doctor", doctor},
		{"reboot", reboot}, {"remove", remove}, {"purge", purge},
	} {
		start := time.Now()
		if !t.Run(part.name, func(t *testing.T) { part.f(t, m) }) {
			t.Logf("carreld says:\n%s", m.root(t, "journalctl -b -u carreld -u carrel.socket -u carrel-containers --no-pager | tail -60"))
			if t.Failed() && (part.name == "readme" || part.name == "reboot") {
				t.FailNow()
			}
		}
		t.Logf("%s: %v", part.name, time.Since(start).Round(time.Second))
	}
	t.Logf("all: %v", time.Since(begin).Round(time.Second))
}

// snapshot lists what Carrel could leave on a machine.
const snapshot = `find / -xdev \( -path /proc -o -path /sys -o -path /dev -o -path /tmp -o -path /var/lib/dpkg -o -path /var/log -o -path /var/cache \
-o -path /var/lib/apt -o -path /var/lib/systemd -o -path /root -o -path /home -o -path '/var/mail' -o -path '/var/spool' -o -path '/var/tmp' \) -prune -o -name '*-' -prune -o -print | sort
getent passwd; getent group
grep -v ' /proc/sys/fs/binfmt_misc ' /proc/self/mountinfo | cut -d' ' -f5 | grep -v -e /run/user -e /run/credentials | sort
find /sys/fs/cgroup -name '*carrel*'; find /run -xdev -name '*carrel*'; systemctl list-units --all --no-legend --plain 'carrel*'`

// block returns an example of the README.
func block(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	m := regexp.MustCompile("(?s)<!-- test:" + name + " -->\n```[a-z]+\n(.*?)```\n").FindSubmatch(text)
	if m == nil {
		t.Fatalf("the README has no example %q", name)
	}
	return string(m[1])
}

// readme types what the README says, word for word. That alice and bob have
// keys is theirs and the administrator's own affair.
func readme(t *testing.T, m *machine) {
	if got := block(t, "build"); got != "make deb\n" {
		t.Fatalf("the README builds the package with %q, and this test with make deb", got)
	}
	m.root(t, "mkdir -p ~/src/bin && cp /seed/carrel_1.0_*.deb ~/src/bin/")
	out := m.root(t, "cd ~/src\nexport DEBIAN_FRONTEND=noninteractive\n"+block(t, "package"))
	if !strings.Contains(out, "Setting up carrel (1.0)") {
		t.Errorf("apt said:\n%s", out)
	}
	got := m.root(t, "systemctl is-active carrel.socket carrel-admin.socket; systemctl is-enabled carrel.socket carrel-admin.socket; systemctl is-active carreld || true")
	if got != "active\nactive\nenabled\nenabled\ninactive" {
		t.Errorf("after the installation: %q", got)
	}
	m.root(t, `carrel config check; getent group carrel; ! grep carrel /etc/shells
test -z "$(dpkg -L carrel | xargs -d '\n' find 2>/dev/null -maxdepth 0 -perm /6000)"
man_pages=$(dpkg -L carrel | grep -c '/man/'); test $man_pages -gt 10
ssh-keygen -q -t ed25519 -N '' -f ~/.ssh/id_ed25519
printf 'Host localhost\nStrictHostKeyChecking accept-new\nBatchMode yes\n' >~/.ssh/config
for user in alice bob; do
	install -d -o $user -g $user -m 700 /home/$user/.ssh
	cat ~/.ssh/id_ed25519.pub /seed/authorized_keys >/home/$user/.ssh/authorized_keys
done`)
}

// firstLogin is what starts carreld and a container.
func firstLogin(t *testing.T, m *machine) {
	r := m.as("alice", "id -un; cat /proc/1/cgroup")
	if r.Code != 0 || !strings.HasPrefix(r.Stdout, "alice\n0::/") || r.Stderr != "" {
		t.Fatalf("first login: %v", r)
	}
	if got := m.root(t, "systemctl is-active carreld carrel-containers.service"); got != "active\nactive" {
		t.Errorf("after the first login: %q", got)
	}
	readme, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	said := regexp.MustCompile("`systemd-analyze security carreld` says ([0-9.]+)").FindSubmatch(readme)
	score := m.root(t, "systemd-analyze security --no-pager carreld | tail -1")
	if said == nil || !strings.Contains(score, ": "+string(said[1])+" ") {
		t.Errorf("systemd-analyze security: %q; the README says %q", score, said)
	}
	// The rest of what the README types.
	out := m.root(t, "set -x\n"+block(t, "login")+"carrel ps\n"+block(t, "admin"))
	for _, want := range []string{"uid=", "/home/alice", "bob-vm"} {
		if !strings.Contains(out, want) {
			t.Errorf("the README's commands do not print %q:\n%s", want, out)
		}
	}
	m.root(t, "cp /etc/carrel/carrel.toml /root/\ncat >/etc/carrel/carrel.toml <<'END'\n"+block(t, "config")+
		"END\ncarrel config check\nsystemctl reload carreld\ncp /root/carrel.toml /etc/carrel/\nsystemctl reload carreld")
}

// doors are the ways in.
func doors(t *testing.T, m *machine) {
	for _, tt := range []struct {
		command, stdin string
		options        []string
		code           int
		want           string // of stdout, as a regular expression
	}{
		{"exit 42", "", nil, 42, "^$"},
		{"kill -KILL $$", "", nil, 255, "^$"}, // what ssh(1) says of a signal
		{"wc -c; echo err >&2", strings.Repeat("x", 300000), nil, 0, "^300000\n$"},
		{"tty; stty size", "", []string{"-tt"}, 0, "^/dev/pts/\\d+\r\n\\d+ \\d+\r\n$"},
		{"", "echo $0 $PWD $((6*7)); exit 7\n", []string{"-tt"}, 7, "-bash /home/alice 42"},
		{"", "echo $0; exit 3\n", nil, 3, "(?m)^-bash\n\\z"}, // behind what sshd shows
	} {
		cmd := m.ssh("alice", tt.command, tt.options...)
		cmd.Stdin = strings.NewReader(tt.stdin)
		r := do(cmd)
		if r.Code != tt.code || r.Err != nil || !regexp.MustCompile(tt.want).MatchString(r.Stdout) {
			t.Errorf("ssh %q %q: %v; want exit %d and %q", tt.options, tt.command, r, tt.code, tt.want)
		}
	}
	dir := t.TempDir()
	payload := []byte(strings.Repeat("carrel\n", 40000))
	if err := os.WriteFile(filepath.Join(dir, "up"), payload, 0o600); err != nil {
		t.Fatal(err)
	}
	options := m.options()
	batch := exec.Command("sftp", append(options, "-b", "-", "alice@127.0.0.1")...)
	batch.Stdin = strings.NewReader("put " + dir + "/up a\nrename a b\nget b " + dir + "/sftp\n")
	remote := strings.Join(append([]string{"ssh"}, options...), " ")
	for _, cmd := range []*exec.Cmd{
		batch,
		exec.Command("scp", append(options, dir+"/up", "alice@127.0.0.1:c")...),
		exec.Command("scp", append(options, "-O", "alice@127.0.0.1:c", dir+"/scp")...),
		exec.Command("rsync", "-e", remote, dir+"/up", "alice@127.0.0.1:d"),
		exec.Command("rsync", "-e", remote, "alice@127.0.0.1:d", dir+"/rsync"),
	} {
		if r := do(cmd); r.Code != 0 || r.Err != nil {
			t.Errorf("%s: %v", cmd.Path, r)
		}
	}
	for _, name := range []string{"sftp", "scp", "rsync"} {
		if got, err := os.ReadFile(filepath.Join(dir, name)); err != nil || string(got) != string(payload) {
			t.Errorf("%s returned %d bytes, %v; want %d", name, len(got), err, len(payload))
		}
	}
	// The files are in the container's home, and nothing of it on the host.
	m.root(t, "test -s /var/lib/carrel/homes/$(id -u alice)/d; ! test -e /home/alice/d")
	got := m.root(t, `su - alice -c 'echo $0 $PWD; exit 9' </dev/null || echo $?; su alice -c 'hostname' </dev/null
grep -c carrel /proc/self/mountinfo || true`)
	if got != "-bash /home/alice\n9\nalice-vm\n0" {
		t.Errorf("su: %q", got)
	}
}

// accounting looks at what sshd and PAM have noted of a login, which Carrel
// does not touch.
func accounting(t *testing.T, m *machine) {
	cmd := m.ssh("alice", "echo in; read x", "-tt")
	s := start(t, cmd)
	s.wait(t, "in")
	got := m.root(t, `who | grep -c '^alice .*(10.0.2.2)'
last -w alice | grep -c 'still logged in'
$(command -v lastlog lastlog2) -u alice | grep -c 10.0.2.2
pid=$(pgrep -x -u alice carrelsh); echo $pid | wc -w
test $(cat /proc/$pid/loginuid) = $(id -u alice) && echo loginuid
grep -c 'user.slice/.*session-.*scope' /proc/$pid/cgroup
loginctl list-sessions --no-legend | grep -c ' alice '
journalctl -b -t sshd -t sshd-session | grep -c 'session opened for user alice' | grep -qv '^0$' && echo pam
readlink /proc/$pid/ns/mnt | grep -qxF "$(readlink /proc/1/ns/mnt)" && echo host`)
	if want := "1\n1\n1\n1\nloginuid\n1\n1\npam\nhost"; got != want {
		t.Errorf("accounting: %q; want %q", got, want)
	}
	// The session is none of systemd's: nothing of the container is in it.
	got = m.root(t, `systemctl status user.slice --no-pager | grep -c '[c]arrel-init\|/run/[.]carrel' || true`)
	if got != "0" {
		t.Errorf("%s processes of a container are in user.slice", got)
	}
	s.send(t, "\n")
	if r := s.end(t); r.Code != 0 {
		t.Errorf("session: %v", r)
	}
	if !until(20*time.Second, func() bool { return m.root(t, "who | grep -c '^alice ' || true") == "0" }) {
		t.Error("who still shows alice")
	}
	// A limit that PAM sets holds for carrelsh, on the host.
	got = m.root(t, `echo 'alice hard nofile 1234' >/etc/security/limits.d/vm.conf`)
	s = start(t, m.ssh("alice", "echo in; read x", "-tt"))
	s.wait(t, "in")
	got = m.root(t, `grep -o 'Max open files .*' /proc/$(pgrep -x -u alice carrelsh)/limits | tr -s ' '; rm /etc/security/limits.d/vm.conf`)
	if !strings.Contains(got, " 1234 ") {
		t.Errorf("PAM's limit: %q", got)
	}
	s.send(t, "\n")
	s.end(t)
}

// theJournal has fields.
func theJournal(t *testing.T, m *machine) {
	entries := func(match string) (list []map[string]any) {
		for line := range strings.Lines(m.root(t, "journalctl -b -u carreld -o json "+match)) {
			var entry map[string]any
			if err := json.Unmarshal([]byte(line), &entry); err == nil {
				list = append(list, entry)
			}
		}
		return list
	}
	list := entries("CARREL_USER=alice")
	if len(list) == 0 || list[0]["CARREL_SANDBOX"] != "u1000" || !strings.HasPrefix(fmt.Sprint(list[0]["MESSAGE"]), "container started user=alice") {
		t.Errorf("the journal of alice: %v", list)
	}
	if list := entries("CARREL_USER=nobody"); len(list) != 0 {
		t.Errorf("the journal of nobody: %v", list)
	}
	if got := m.root(t, "journalctl -b -u carreld -p err -q --no-pager"); got != "" {
		t.Errorf("errors:\n%s", got)
	}
}

// limits are the cgroup's, below a unit that systemd leaves alone.
func limits(t *testing.T, m *machine) {
	const group = "/sys/fs/cgroup/carrel.slice/carrel-containers.service/u1000"
	m.root(t, `cat >/etc/carrel/carrel.toml <<'END'
[limits]
memory = "128MiB"
swap = "32MiB"
cpu_weight = 50
cpu_quota = "150%"
pids = 32
END
systemctl reload carreld; carrel stop alice`)
	// systemd counts its units anew at a reload, and must not mind these.
	if r := m.as("alice", "true"); r.Code != 0 {
		t.Fatal(r)
	}
	m.root(t, "systemctl daemon-reload")
	got := m.root(t, "cd "+group+"; cat memory.max memory.swap.max cpu.weight cpu.max pids.max")
	if want := "134217728\n33554432\n50\n150000 100000\n32"; got != want {
		t.Errorf("limits %q; want %q", got, want)
	}
	if r := m.as("alice", "tail /dev/zero; echo $?"); !strings.Contains(r.Stdout, "137") {
		t.Errorf("a program that takes all memory: %v", r)
	}
	if got := m.root(t, "sed -n 's/^oom_kill //p' "+group+"/memory.events"); got == "0" || got == "" {
		t.Errorf("oom_kill %q", got)
	}
	// dash, for bash tries again for 15 s. pids.events counts it in a leaf.
	if r := m.as("alice", "exec sh -c 'for i in $(seq 40); do sleep 100 & done'"); !strings.Contains(r.Stderr, "Cannot fork") {
		t.Errorf("a program that forks: %v", r)
	}
	if r := m.as("bob", "echo well"); r.Stdout != "well\n" {
		t.Errorf("bob meanwhile: %v", r)
	}
	m.root(t, "cp /root/carrel.toml /etc/carrel/; systemctl reload carreld; carrel stop alice")
	if r := m.as("alice", "echo well"); r.Stdout != "well\n" {
		t.Errorf("alice afterwards: %v", r)
	}
}

// A client is one that runs while the test does other things.
type client struct {
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Reader
}

func start(t *testing.T, cmd *exec.Cmd) *client {
	t.Helper()
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	s := &client{cmd, in, bufio.NewReader(out)}
	alarm := time.AfterFunc(8*time.Minute, func() { _ = cmd.Process.Kill() })
	t.Cleanup(func() {
		alarm.Stop()
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	return s
}

// wait reads lines until one contains text.
func (s *client) wait(t *testing.T, text string) string {
	t.Helper()
	for {
		line, err := s.out.ReadString('\n')
		if err != nil {
			t.Fatalf("session ended before it said %q: %v", text, err)
		}
		if strings.Contains(line, text) {
			return line
		}
	}
}

func (s *client) send(t *testing.T, text string) {
	t.Helper()
	if _, err := io.WriteString(s.in, text); err != nil {
		t.Fatal(err)
	}
}

// end reads what is left and waits.
func (s *client) end(t *testing.T) host.Result {
	t.Helper()
	s.in.Close()
	rest, err := io.ReadAll(s.out)
	if err != nil {
		t.Error(err)
	}
	_ = s.cmd.Wait()
	return host.Result{Stdout: string(rest), Code: s.cmd.ProcessState.ExitCode()}
}

// A stream is a session through which bytes run in both directions at some
// KiB each second, and come back, until it is closed.
type stream struct {
	*client
	sent chan [32]byte
	got  chan [32]byte
	stop chan struct{}
	n    int
}

func startStream(t *testing.T, m *machine, user string) *stream {
	t.Helper()
	s := &stream{client: start(t, m.ssh(user, "echo up; cat; exit 5")), sent: make(chan [32]byte, 1), got: make(chan [32]byte, 1), stop: make(chan struct{})}
	s.wait(t, "up")
	go func() {
		sum := sha256.New()
		for i := 0; ; i++ {
			line := fmt.Sprintf("%d %s\n", i, strings.Repeat("x", i%700))
			if _, err := io.WriteString(s.in, line); err != nil {
				break
			}
			sum.Write([]byte(line))
			s.n += len(line)
			select {
			case <-s.stop:
				s.in.Close()
				s.sent <- [32]byte(sum.Sum(nil))
				return
			case <-time.After(20 * time.Millisecond):
			}
		}
		s.sent <- [32]byte{}
	}()
	go func() {
		sum := sha256.New()
		_, _ = io.Copy(sum, s.out)
		s.got <- [32]byte(sum.Sum(nil))
	}()
	return s
}

// whole ends the stream, checks that each byte came back and that the status
// is the session's, and returns how many there were.
func (s *stream) whole(t *testing.T) int {
	t.Helper()
	close(s.stop)
	sent, got := <-s.sent, <-s.got
	_ = s.cmd.Wait()
	if code := s.cmd.ProcessState.ExitCode(); sent != got || code != 5 {
		t.Errorf("a stream of %d bytes: whole %v, exit %d; want exit 5", s.n, sent == got, code)
	}
	return s.n
}

const mainPID = "systemctl show -p MainPID --value carreld"

// restart restarts, stops and kills carreld under sessions.
func restart(t *testing.T, m *machine) {
	var streams []*stream
	for _, user := range []string{"alice", "alice", "bob"} {
		streams = append(streams, startStream(t, m, user))
	}
	inits := m.root(t, "carrel ps --json | grep -o '\"init_pid\": *[0-9]*'")
	first := m.root(t, mainPID)
	m.root(t, "systemctl restart carreld")
	if second := m.root(t, mainPID); second == first || second == "0" {
		t.Errorf("MainPID %s after a restart, %s before", second, first)
	}
	if r := m.as("alice", "echo new"); r.Stdout != "new\n" {
		t.Errorf("login after a restart: %v", r)
	}
	// Stopped, and started by the socket.
	m.root(t, "systemctl stop carreld")
	if r := m.as("bob", "echo new"); r.Stdout != "new\n" {
		t.Errorf("login after a stop: %v", r)
	}
	// Killed every two seconds, with logins in between.
	m.root(t, "nohup sh -c 'for i in 1 2 3 4 5 6 7 8 9 10; do kill -9 $("+mainPID+"); sleep 2; done' >/dev/null 2>&1 </dev/null &")
	logins, cut := 0, 0
	for end := time.Now().Add(25 * time.Second); time.Now().Before(end); logins++ {
		switch r := m.as("bob", "echo new"); {
		case r.Stdout == "new\n" && r.Code == 0:
		case r.Stdout == "" && r.Code == session.NoAnswer.Status() && strings.Contains(r.Stderr, "does not answer"):
			cut++ // in the middle of this one; nobody knows whether the command has run
		default:
			t.Errorf("login while carreld is killed: %v", r)
		}
	}
	if cut > 3 {
		t.Errorf("%d of %d logins were cut by kill -9", cut, logins)
	}
	kills := m.root(t, "systemctl show -p NRestarts --value carreld")
	if n, err := strconv.Atoi(kills); err != nil || n < 8 {
		t.Errorf("carreld was restarted %s times: the test proves little", kills)
	}
	if got := m.root(t, "carrel ps --json | grep -o '\"init_pid\": *[0-9]*'"); got != inits {
		t.Errorf("containers %q; want %q", got, inits)
	}
	total := 0
	for _, s := range streams {
		total += s.whole(t)
	}
	t.Logf("%s restarts after kill -9, %d of %d logins cut, 3 streams, %d bytes", kills, cut, logins, total)
}

// watchdog stops carreld's process, which lives on and does nothing.
func watchdog(t *testing.T, m *machine) {
	m.root(t, `mkdir -p /run/systemd/system/carreld.service.d
printf '[Service]\nWatchdogSec=10s\nTimeoutAbortSec=2s\n' >/run/systemd/system/carreld.service.d/vm.conf
systemctl daemon-reload; systemctl restart carreld`)
	pid := m.root(t, mainPID)
	// The twin: it is left alone as long as it answers.
	time.Sleep(15 * time.Second)
	if got := m.root(t, mainPID); got != pid {
		t.Errorf("carreld that answers was restarted: %s, then %s", pid, got)
	}
	m.root(t, "kill -STOP "+pid)
	if !until(time.Minute, func() bool { got := m.root(t, mainPID); return got != pid && got != "0" }) {
		t.Error("carreld that does not answer was left alone")
	}
	if got := m.root(t, "journalctl -b -u carreld -q --no-pager | grep -c 'Watchdog timeout' || true"); got != "1" {
		t.Errorf("%s watchdog timeouts", got)
	}
	m.root(t, "rm -r /run/systemd/system/carreld.service.d; systemctl daemon-reload; systemctl restart carreld")
}

// mistake is one in the configuration.
func mistake(t *testing.T, m *machine) {
	m.root(t, "echo 'imag = 1' >/etc/carrel/carrel.toml; ! systemctl restart carreld")
	r := m.as("alice", "true")
	if r.Code == 0 || !strings.HasPrefix(r.Stderr, "carrel: ") || strings.Count(r.Stderr, "\n") != 1 {
		t.Errorf("login without a daemon: %v", r)
	}
	m.root(t, "cp /root/carrel.toml /etc/carrel/; systemctl start carreld")
	if r := m.as("alice", "echo well"); r.Stdout != "well\n" {
		t.Errorf("login after it is mended: %v", r)
	}
}

// dropIn takes alice out of the group that sshd's drop-in serves, and back.
func dropIn(t *testing.T, m *machine) {
	forwarded := func() bool {
		cmd := m.ssh("alice", "", "-W", "127.0.0.1:22")
		cmd.Stdin = strings.NewReader("")
		return strings.HasPrefix(do(cmd).Stdout, "SSH-2.0-")
	}
	if forwarded() {
		t.Error("sshd forwards to the host for a member of the group")
	}
	m.root(t, "gpasswd -d alice carrel")
	if !forwarded() {
		t.Error("nothing is forwarded for others: the test proves nothing")
	}
	if r := m.as("alice", "echo $HOME; exit 4"); r.Code != 4 || r.Stdout != "/home/alice\n" {
		t.Errorf("login without ForceCommand: %v", r)
	}
	m.root(t, "usermod -aG carrel alice")
}

// upgrade goes to the next version and back under a session.
func upgrade(t *testing.T, m *machine) {
	s := startStream(t, m, "alice")
	m.root(t, "carrel stop bob || true")
	const inits = "carrel ps --json | grep -o '\"init_pid\": *[0-9]*'"
	init := m.root(t, inits)
	for _, version := range []string{"1.1", "1.0"} {
		pid := m.root(t, mainPID)
		m.root(t, "export DEBIAN_FRONTEND=noninteractive; apt-get -qq install -y --allow-downgrades /seed/carrel_"+version+"_*.deb </dev/null")
		if got := m.root(t, "carrel version | grep -c ' "+version+" '"); got != "2" {
			t.Errorf("after the installation of %s: %s", version, m.root(t, "carrel version"))
		}
		if got := m.root(t, mainPID); got == pid {
			t.Errorf("carreld of %s was not restarted", version)
		}
		if got := m.root(t, inits); got != init {
			t.Errorf("container %q after the installation of %s; want %q", got, version, init)
		}
		for _, user := range []string{"alice", "bob"} { // bob's container is from 1.1
			if r := m.as(user, "echo new"); r.Stdout != "new\n" {
				t.Errorf("login of %s with %s: %v", user, version, r)
			}
		}
		init = m.root(t, inits)
	}
	t.Logf("a stream of %d bytes lived through it", s.whole(t))
	// A clean restart of the cgroups' holder is the one that ends containers.
	m.root(t, "systemctl restart carrel-containers.service; test -z \"$(pgrep -f '^/run/.carrel/init')\"")
	if r := m.as("alice", "echo new"); r.Stdout != "new\n" {
		t.Errorf("login after all containers were ended: %v", r)
	}
}

// doctor finds nothing that lets a user of Carrel run something on a machine
// that was set up as the README says: systemd starts no manager for them, and
// does for a plain account. It mends what lets systemd do so, and finds what is
// amiss with an account that the drop-in of sshd does not serve.
func doctor(t *testing.T, m *machine) {
	status := func() string { return m.root(t, "carrel doctor >/root/doctor || echo status $?") }
	const managers = "pgrep -u alice -x systemd || true; pgrep -c -u plain -x systemd || true"
	m.root(t, `useradd -m -s /bin/bash plain && install -d -o plain -g plain -m 700 /home/plain/.ssh && cp /home/alice/.ssh/authorized_keys /home/plain/.ssh/`)
	s := start(t, m.ssh("alice", "echo in; exec sleep 1000", "-tt"))
	s.wait(t, "in")
	p := start(t, m.ssh("plain", "echo in; exec sleep 1000", "-tt"))
	p.wait(t, "in")
	if got := m.root(t, managers); got != "1" {
		t.Errorf("managers of alice and of a plain account: %q; want the latter's alone", got)
	}
	if got := status(); got == "status 2" || got == "status 69" {
		t.Errorf("on a machine as the README sets it up: %s\n%s", got, m.root(t, "cat /root/doctor"))
	}
	m.root(t, "mkdir -p /etc/systemd/system/user@.service.d && ln -s /dev/null /etc/systemd/system/user@.service.d/50-carrel.conf && systemctl daemon-reload && systemctl start user@1000.service && pgrep -u alice -x systemd")
	if got := status(); got != "status 2" {
		t.Errorf("where systemd runs a manager for alice: %q\n%s", got, m.root(t, "cat /root/doctor"))
	}
	m.root(t, "carrel doctor --fix || true")
	if got := status(); got == "status 2" || got == "status 69" {
		t.Errorf("after --fix: %s\n%s", got, m.root(t, "cat /root/doctor"))
	}
	if r := m.as("alice", "echo well"); r.Stdout != "well\n" {
		t.Errorf("login after --fix: %v", r)
	}
	m.root(t, "gpasswd -d alice carrel")
	if got := status(); got != "status 2" {
		t.Errorf("with an account that the drop-in does not serve: %s", got)
	}
	// What --fix did is the administrator's, and purge does not take it back.
	m.root(t, "usermod -aG carrel alice; systemctl unmask user@1000.service user@1001.service; rm -r /etc/systemd/system/user@.service.d; systemctl daemon-reload; loginctl terminate-user plain; userdel -rf plain")
}

// reboot reboots, once as one should and once as a power cut does.
func reboot(t *testing.T, m *machine) {
	for i, how := range []string{"systemctl reboot", "echo b >/proc/sysrq-trigger"} {
		mark := fmt.Sprintf("mark%d", i)
		if r := m.as("alice", "echo "+mark+" | tee ~/"+mark+" /var/tmp/"+mark+" && sync"); r.Code != 0 {
			t.Fatalf("before: %v", r)
		}
		ids := m.root(t, "cat /var/lib/carrel/ids.json")
		s := start(t, m.ssh("alice", "echo in; exec sleep 1000", "-tt"))
		s.wait(t, "in")
		m.reboot(t, how)
		got := m.root(t, "systemctl is-active carrel.socket; systemctl is-active carreld || true; ls /run/carrel; find /sys/fs/cgroup -path '*carrel*' -name u1000")
		if got != "active\ninactive\nadmin.sock\nlogin.sock" {
			t.Errorf("after %q: %q", how, got)
		}
		r := m.as("alice", "cat ~/"+mark+" /var/tmp/"+mark+"; ls -d /run/user /tmp/* 2>/dev/null")
		if r.Code == 255 || !strings.HasPrefix(r.Stdout, mark+"\n"+mark+"\n") {
			t.Errorf("first login after %q: %v", how, r)
		}
		if got := m.root(t, "cat /var/lib/carrel/ids.json"); got != ids {
			t.Errorf("ids after %q:\n%s\nbefore:\n%s", how, got, ids)
		}
		if got := m.root(t, "systemctl --failed --no-legend; journalctl -b -q -p err -u carreld"); got != "" {
			t.Errorf("failed after %q: %s", how, got)
		}
	}
}

// remove is refused as long as somebody needs it.
func remove(t *testing.T, m *machine) {
	s := startStream(t, m, "alice")
	if r := m.as("alice", "echo kept >~/kept"); r.Code != 0 {
		t.Fatal(r)
	}
	const command = "DEBIAN_FRONTEND=noninteractive apt-get -qq remove -y carrel </dev/null"
	refused := func(want ...string) {
		t.Helper()
		r := do(m.ssh("root", command))
		said := strings.ReplaceAll(r.Stdout+r.Stderr, "\r\n", "\n") // dpkg writes to a terminal of apt's
		if r.Code == 0 || strings.Count(said, "\n  alice bob\n") != len(want) {
			t.Errorf("remove, which should be refused over %q: %v", want, r)
		}
		for _, remedy := range want {
			if !strings.Contains(said, remedy) {
				t.Errorf("remove does not name %q: %v", remedy, r)
			}
		}
	}
	refused("chsh -s /bin/bash NAME", "gpasswd -d NAME carrel")
	if got := m.root(t, "systemctl is-active carrel.socket; dpkg-query -W -f '${db:Status-Abbrev}' carrel"); got != "active\nii " {
		t.Errorf("after the refusal: %q", got)
	}
	s.whole(t)
	if r := m.as("alice", "echo new"); r.Stdout != "new\n" {
		t.Errorf("login after the refusal: %v", r)
	}
	// The commands that it names, and no more of them than are needed.
	names := m.root(t, `getent passwd | awk -F: '$7 == "/usr/bin/carrelsh" { print $1 }'`)
	if names != "alice\nbob" {
		t.Errorf("accounts %q", names)
	}
	m.root(t, "for name in alice bob; do chsh -s /bin/bash $name; done")
	refused("gpasswd -d NAME carrel")
	m.root(t, "for name in alice bob; do gpasswd -d $name carrel; done; "+command)
	got := m.root(t, "pgrep -x 'init|carreld' || true; systemctl list-units --no-legend --plain 'carrel*'; find /sys/fs/cgroup -name u1000; ls /run/carrel || true")
	if regexp.MustCompile(`(?m)^\d+$|sock|u1000|running`).MatchString(got) {
		t.Errorf("after remove: %q", got)
	}
	m.root(t, "test -d /var/lib/carrel/homes/1000; test -e /etc/carrel/carrel.toml; test -e /etc/ssh/sshd_config.d/50-carrel.conf")
	// They log in to the host; whom sshd still sends to carrelsh cannot.
	const where = "echo $0; cat /proc/1/comm"
	if r := m.as("alice", where); r.Code != 0 || r.Stdout != "bash\nsystemd\n" {
		t.Errorf("login after remove: %v; want bash on the host", r)
	}
	m.root(t, "usermod -aG carrel alice")
	if r := m.as("alice", where); r.Code != 127 {
		t.Errorf("login of a member after remove: %v; want 127, or the group proves nothing", r)
	}
	// Back again, with everything where it was.
	m.root(t, "apt-get -qq install -y /seed/carrel_1.0_*.deb </dev/null; usermod -s /usr/bin/carrelsh alice")
	if r := m.as("alice", "cat ~/kept"); r.Stdout != "kept\n" {
		t.Errorf("after reinstallation: %v", r)
	}
	m.root(t, "chsh -s /bin/bash alice")
}

// purge leaves nothing, though a container runs.
func purge(t *testing.T, m *machine) {
	m.root(t, "test -n \"$(carrel ps --json | grep alice)\"; userdel alice 2>/dev/null || userdel -f alice; userdel bob; DEBIAN_FRONTEND=noninteractive apt-get -qq purge -y carrel </dev/null")
	after := m.root(t, snapshot)
	before := make(map[string]bool)
	for line := range strings.Lines(m.before) {
		before[strings.TrimSpace(line)] = true
	}
	for line := range strings.Lines(after) {
		if line = strings.TrimSpace(line); !before[line] {
			t.Errorf("left: %s", line)
		}
	}
	if len(before) < 1000 {
		t.Errorf("the list has %d lines: the test proves nothing", len(before))
	}
}
