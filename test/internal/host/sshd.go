package host

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"

	"golang.org/x/crypto/ssh"
)

// An SSHD is a private OpenSSH server on two loopback ports: a plain one, and
// one where ForceCommand names carrelsh. One key admits to every account.
type SSHD struct {
	Port, ForcedPort int
	Log              string

	dir    string
	key    ssh.Signer
	cmd    *exec.Cmd
	exited chan struct{}
}

// ServeSSH starts the server and returns when it answers.
func (h *Host) ServeSSH() (*SSHD, error) {
	s := &SSHD{dir: filepath.Join(h.Dir, "ssh"), exited: make(chan struct{})}
	if err := os.MkdirAll(s.dir, 0o711); err != nil {
		return nil, err
	}
	// Debian's sshd wants it; its unit makes it at boot.
	if err := os.MkdirAll("/run/sshd", 0o755); err != nil {
		return nil, err
	}
	if err := s.makeKeys(); err != nil {
		return nil, err
	}
	var err error
	if s.Port, s.ForcedPort, err = freePorts(); err != nil {
		return nil, err
	}
	config := filepath.Join(s.dir, "sshd_config")
	if err := os.WriteFile(config, []byte(s.config(h)), 0o600); err != nil {
		return nil, err
	}
	s.Log = filepath.Join(s.dir, "log")
	s.cmd = exec.Command("/usr/sbin/sshd", "-D", "-f", config, "-E", s.Log)
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := s.cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		_ = s.cmd.Wait()
		close(s.exited)
	}()
	h.sshd = s
	if !eventually(func() bool { return answersTCP(s.Port) && answersTCP(s.ForcedPort) }) {
		return nil, fmt.Errorf("sshd does not answer; its log ends:\n%s", tail(s.Log))
	}
	return s, nil
}

// config is careless about the environment, as a site's may be.
func (s *SSHD) config(h *Host) string {
	return fmt.Sprintf(`ListenAddress 127.0.0.1:%d
ListenAddress 127.0.0.1:%d
HostKey %[3]s/host
PidFile %[3]s/pid
AuthorizedKeysFile %[3]s/authorized_keys
StrictModes no
UsePAM no
PasswordAuthentication no
KbdInteractiveAuthentication no
AcceptEnv *
MaxStartups 500
MaxSessions 500
LogLevel VERBOSE
Subsystem sftp /usr/lib/openssh/sftp-server
Match LocalPort %[2]d
	ForceCommand %[4]s
`, s.Port, s.ForcedPort, s.dir, h.Path("carrelsh"))
}

func (s *SSHD) makeKeys() error {
	for _, name := range []string{"host", "client"} {
		_, key, err := ed25519.GenerateKey(rand.Reader)
		if err != nil {
			return err
		}
		block, err := ssh.MarshalPrivateKey(key, "")
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(s.dir, name), pem.EncodeToMemory(block), 0o600); err != nil {
			return err
		}
		if s.key, err = ssh.NewSignerFromKey(key); err != nil {
			return err
		}
	}
	public := ssh.MarshalAuthorizedKey(s.key.PublicKey())
	return os.WriteFile(filepath.Join(s.dir, "authorized_keys"), public, 0o644)
}

// Command returns OpenSSH's client about to run command as the account; none
// for an empty command. options stand before the host's name.
func (s *SSHD) Command(a Account, command string, options ...string) *exec.Cmd {
	return s.client(s.Port, a, command, options)
}

// Forced is Command at the port where ForceCommand names carrelsh.
func (s *SSHD) Forced(a Account, command string, options ...string) *exec.Cmd {
	return s.client(s.ForcedPort, a, command, options)
}

func (s *SSHD) client(port int, a Account, command string, options []string) *exec.Cmd {
	args := append(s.Options(), "-p", strconv.Itoa(port))
	args = append(args, options...)
	args = append(args, a.Name+"@127.0.0.1")
	if command != "" {
		args = append(args, "--", command)
	}
	return exec.Command("ssh", args...)
}

// Options returns what ssh, scp and sftp need to get in without a question.
func (s *SSHD) Options() []string {
	return []string{
		"-F", "none", "-i", filepath.Join(s.dir, "client"), "-o", "IdentitiesOnly=yes",
		"-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null",
		"-o", "BatchMode=yes", "-o", "LogLevel=ERROR",
	}
}

// Dial connects with Go's own client, which shows the exit-signal that
// OpenSSH's folds into status 255. The caller closes it.
func (s *SSHD) Dial(a Account) (*ssh.Client, error) { return s.DialPort(s.Port, a) }

// DialPort is Dial at one of the two ports.
func (s *SSHD) DialPort(port int, a Account) (*ssh.Client, error) {
	return ssh.Dial("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)), &ssh.ClientConfig{
		User:            a.Name,
		Auth:            []ssh.AuthMethod{ssh.PublicKeys(s.key)},
		HostKeyCallback: ssh.InsecureIgnoreHostKey(), //nolint:gosec // it is our own, on loopback
		Timeout:         patience,
	})
}

// Close ends the server and every connection that is still open.
func (s *SSHD) Close() error {
	children, err := descendants(s.cmd.Process.Pid)
	if err != nil {
		return err
	}
	if err := s.cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	<-s.exited
	for _, pid := range children {
		_ = syscall.Kill(pid, syscall.SIGTERM)
	}
	return nil
}

func freePorts() (a, b int, err error) {
	var ports [2]int
	for i := range ports {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return 0, 0, err
		}
		defer l.Close()
		_, port, err := net.SplitHostPort(l.Addr().String())
		if err != nil {
			return 0, 0, err
		}
		if ports[i], err = strconv.Atoi(port); err != nil {
			return 0, 0, err
		}
	}
	return ports[0], ports[1], nil
}

func answersTCP(port int) bool {
	conn, err := net.Dial("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
	if err != nil {
		return false
	}
	conn.Close()
	return true
}
