package doctor

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/carrel-sh/carrel/test/internal/host"
)

// Where a client and its key are; every account has the key in its home.
const keyPath = "/run/client-key"

var makeKey = sync.OnceValues(func() (ssh.Signer, error) {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	block, err := ssh.MarshalPrivateKey(key, "")
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile(keyPath, pem.EncodeToMemory(block), 0o600); err != nil {
		return nil, err
	}
	return ssh.NewSignerFromKey(key)
})

// authorize lets the key in, with options before it, at the account's home.
func (m *machine) authorize(t *testing.T, a host.Account, options string) {
	t.Helper()
	signer, err := makeKey()
	if err != nil {
		t.Fatal(err)
	}
	if options != "" {
		options += " "
	}
	text := options + string(ssh.MarshalAuthorizedKey(signer.PublicKey()))
	put(t, a, ".ssh/authorized_keys", text, 0o600)
}

// put writes a file of the account's into its home on the host.
func put(t *testing.T, a host.Account, name, text string, mode os.FileMode) {
	t.Helper()
	path := filepath.Join(a.Home, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), mode); err != nil {
		t.Fatal(err)
	}
	shell(t, fmt.Sprintf("chmod %o %s; chown -R %s: %s", mode, path, a.Name, a.Home))
	t.Cleanup(func() { os.Remove(path) })
}

// serve starts Debian's sshd with the configuration of the machine and more
// after it, and ends it with the test. The daemon stays below its pid when it
// is told to read its configuration again.
func (m *machine) serve(t *testing.T, more string) {
	t.Helper()
	for _, a := range []host.Account{m.alice, m.bob, m.harry, m.frank, m.plain} {
		m.authorize(t, a, "")
	}
	const config = "/etc/ssh/sshd_config"
	text, err := os.ReadFile(config)
	if err != nil {
		t.Fatal(err)
	}
	write(t, config, strings.ReplaceAll(string(text), "Subsystem", "#Subsystem")+subsystem(more)+"ListenAddress 127.0.0.1\n"+more+"\n", 0o644)
	log := filepath.Join(t.TempDir(), "sshd.log")
	cmd := exec.Command("/usr/sbin/sshd", "-D", "-E", log)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		_ = cmd.Wait()
		if t.Failed() {
			text, _ := os.ReadFile(log)
			t.Logf("sshd's log ends:\n%s", text[max(0, len(text)-3000):])
		}
	})
	m.await(t, "sshd", answers)
}

// subsystem returns the line for sftp unless there is one.
func subsystem(config string) string {
	if strings.Contains(config, "Subsystem") {
		return ""
	}
	return "Subsystem sftp /usr/lib/openssh/sftp-server\n"
}

func answers() bool {
	conn, err := net.Dial("tcp", "127.0.0.1:22")
	if err != nil {
		return false
	}
	defer conn.Close()
	_ = conn.SetReadDeadline(time.Now().Add(5 * time.Second))
	banner := make([]byte, 4)
	_, err = conn.Read(banner)
	return err == nil && string(banner) == "SSH-"
}

// await waits until ok, within patience.
func (*machine) await(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !ok(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%s does not answer", what)
		}
	}
}

// reload runs f, which sends sshd a SIGHUP, and waits until sshd has read its
// configuration: it executes itself again and writes its id anew.
func (m *machine) reload(t *testing.T, f func()) {
	t.Helper()
	written := func() time.Time {
		info, err := os.Stat("/run/sshd.pid")
		if err != nil {
			return time.Time{} // for a moment there is none
		}
		return info.ModTime()
	}
	before := written()
	f()
	m.await(t, "sshd", func() bool { return written().After(before) && answers() })
}

var sshOptions = []string{
	"-F", "none", "-i", keyPath, "-o", "IdentitiesOnly=yes", "-o", "StrictHostKeyChecking=no",
	"-o", "UserKnownHostsFile=/dev/null", "-o", "BatchMode=yes", "-o", "LogLevel=ERROR",
}

// ssh returns OpenSSH's client; options stand before the host's name.
func (m *machine) ssh(a host.Account, command string, options ...string) *exec.Cmd {
	args := append(append(append([]string{}, sshOptions...), options...), a.Name+"@127.0.0.1")
	if command != "" {
		args = append(args, "--", command)
	}
	cmd := exec.Command("ssh", args...)
	cmd.Env = append(os.Environ(), "DISPLAY=:99")
	return cmd
}

// dial connects with Go's client, which does what OpenSSH's refuses to ask for.
func (m *machine) dial(t *testing.T, a host.Account) *ssh.Client {
	t.Helper()
	signer, err := makeKey()
	if err != nil {
		t.Fatal(err)
	}
	client, err := ssh.Dial("tcp", "127.0.0.1:22", &ssh.ClientConfig{
		User: a.Name, Auth: []ssh.AuthMethod{ssh.PublicKeys(signer)}, Timeout: 20 * time.Second,
		HostKeyCallback: ssh.InsecureIgnoreHostKey(), //nolint:gosec // it is our own, on loopback
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	return client
}

// A perch is where canaries sing: a file below the home of an account, on the
// host and inside. Each line is the mount namespace and the name of one.
type perch struct {
	path    string
	private string // the same inside, as the host sees it, when the home is private
	m       *machine
	a       host.Account
}

func (m *machine) perch(t *testing.T, a host.Account) *perch {
	t.Helper()
	p := &perch{path: filepath.Join(a.Home, "perch"), private: m.private(a) + "/perch", m: m, a: a}
	p.clear(t)
	t.Cleanup(func() { os.Remove(p.path); os.Remove(p.private) })
	return p
}

// private returns where the host has the account's private home.
func (m *machine) private(a host.Account) string {
	return fmt.Sprintf("%s/homes/%d", m.StateDir, a.UID)
}

// openHomes lets the host's users reach the private homes, as a site does that
// keeps its users' keys there.
func (m *machine) openHomes(t *testing.T) {
	t.Helper()
	homes := filepath.Join(m.StateDir, "homes")
	if err := os.Chmod(homes, 0o711); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.Chmod(homes, 0o700) })
}

func (p *perch) clear(t *testing.T) {
	t.Helper()
	os.Remove(p.private)
	// It must be the user's: of a file of root's nothing inside may change.
	if err := os.WriteFile(p.path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(p.path, int(p.a.UID), int(p.a.GID)); err != nil {
		t.Fatal(err)
	}
}

// line is a command of the shell's that sings.
func (p *perch) line(name string) string {
	return fmt.Sprintf("echo $(readlink /proc/self/ns/mnt) %s >>%s", name, p.path)
}

// sang returns the canaries that ran on the host, and those that ran inside,
// each once.
func (p *perch) sang(t *testing.T) (onHost, elsewhere []string) {
	t.Helper()
	text, err := os.ReadFile(p.path)
	if err != nil {
		t.Fatal(err)
	}
	private, err := os.ReadFile(p.private)
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text) + string(private)) {
		place, name, _ := strings.Cut(strings.TrimSpace(line), " ")
		if place == p.m.place {
			onHost = append(onHost, name)
		} else {
			elsewhere = append(elsewhere, name)
		}
	}
	slices.Sort(onHost)
	slices.Sort(elsewhere)
	return slices.Compact(onHost), slices.Compact(elsewhere)
}

// library compiles a shared object that sings when it is loaded.
func (p *perch) library(t *testing.T, name string) []byte {
	t.Helper()
	const source = `#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>
__attribute__((constructor)) static void sing(void) {
	char place[64] = "", line[256], exe[128] = "";
	readlink("/proc/self/ns/mnt", place, sizeof place - 1);
	readlink("/proc/self/exe", exe, sizeof exe - 1);
	int fd = open(PERCH, O_WRONLY | O_APPEND | O_CREAT, 0600);
	if (fd < 0) return;
	write(fd, line, snprintf(line, sizeof line, "%s %s in %s\n", place, NAME, exe));
	close(fd);
}
`
	out := filepath.Join(t.TempDir(), "canary.so")
	cmd := exec.Command("gcc", "-shared", "-fPIC", "-w", "-x", "c", "-", "-o", out, fmt.Sprintf("-DPERCH=%q", p.path), fmt.Sprintf("-DNAME=%q", name))
	cmd.Stdin = strings.NewReader(source)
	if text, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("gcc: %v: %s", err, text)
	}
	library, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	return library
}

// plant writes a file from inside of the account's container, below the home.
func (m *machine) plant(t *testing.T, a host.Account, name string, content []byte, mode string) {
	t.Helper()
	r := m.In(a, fmt.Sprintf("umask 077; cd && mkdir -p $(dirname %[1]s) && cat >%[1]s && chmod %[2]s %[1]s", name, mode), bytes.NewReader(content))
	if r.Code != 0 || r.Err != nil {
		t.Fatalf("plant %s: %v", name, r)
	}
	t.Cleanup(func() {
		if r := m.In(a, "cd && rm -rf "+name, nil); r.Code != 0 {
			t.Errorf("remove %s: %v", name, r)
		}
	})
}

// As returns a program of the host's run with the ids of an account, as if a
// hole had let it through.
func as(a host.Account, name string, args ...string) *exec.Cmd {
	cmd := exec.Command(name, args...)
	cmd.Env = a.Environ()
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: a.Credential(), Setsid: true}
	return cmd
}
