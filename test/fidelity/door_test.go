package fidelity

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/carrel-sh/carrel/test/internal/host"
)

// The entry modes.
const (
	passwd = "passwd shell"
	forced = "ForceCommand"
	suMode = "su -"
	direct = "direct"
)

// The clients of the first table; clients.go has the others.
const (
	openSSH  = "OpenSSH"
	goCrypto = "x/crypto/ssh"
	local    = "none" // of su and of carrelsh called directly
)

// A door is one way in: an entry mode and a client, with a user of its own,
// whose shell is carrelsh, and an oracle, whose shell is bash.
type door struct {
	mode, client string
	user, oracle host.Account
	// open returns the command of the client, ready to run.
	open func(v visit) *exec.Cmd
}

// A visit is one session at a door.
type visit struct {
	account host.Account
	oracle  bool
	command string   // "" is a login
	tty     bool     // the client runs on a terminal and asks for one
	agent   bool     // ssh -A
	env     []string // of the client, which sends LANG and the like
	set     []string // sent as they are, if the client sends variables
}

func (d *door) String() string {
	if d.client == local {
		return d.mode
	}
	return d.mode + ", " + d.client
}

// atSSHD says that sshd is part of the door.
func (d *door) atSSHD() bool { return d.mode == passwd || d.mode == forced }

// native says that the door is one where every row is measured.
func (d *door) native() bool { return d.client == openSSH || d.client == local }

// makeDoors makes the doors and their accounts.
func (f *fixture) makeDoors() error {
	f.doors = []*door{
		{mode: passwd, client: openSSH, open: f.openSSH(f.sshd.Port)},
		{mode: forced, client: openSSH, open: f.openSSH(f.sshd.ForcedPort)},
		{mode: suMode, client: local, open: openSu},
		{mode: direct, client: local, open: f.openDirect},
		{mode: passwd, client: goCrypto, open: f.openGo(f.sshd.Port)},
		{mode: forced, client: goCrypto, open: f.openGo(f.sshd.ForcedPort)},
	}
	others, err := f.otherClients()
	if err != nil {
		return err
	}
	f.doors = append(f.doors, others...)
	for i, d := range f.doors {
		if j := slices.IndexFunc(f.doors[:i], func(o *door) bool { return !atMain(o) && o.client == d.client }); j >= 0 {
			d.user, d.oracle = f.doors[j].user, f.doors[j].oracle
			continue
		}
		if d.user, err = f.Account(fmt.Sprintf("u%02d", i), ""); err != nil {
			return err
		}
		if d.oracle, err = f.Account(fmt.Sprintf("o%02d", i), "/bin/bash"); err != nil {
			return err
		}
	}
	return nil
}

// port is where a visit goes: the forced command would be carrelsh for the
// oracle, too.
func (f *fixture) port(v visit, port int) int {
	if v.oracle {
		return f.sshd.Port
	}
	return port
}

// key is the path of the client's private key, as OpenSSH writes it.
func (f *fixture) key() string {
	options := f.sshd.Options()
	return options[slices.Index(options, "-i")+1]
}

func (f *fixture) openSSH(port int) func(visit) *exec.Cmd {
	return func(v visit) *exec.Cmd {
		options := append([]string{"-e", "none", "-T", "-o", "SendEnv=LANG LC_* TZ COLORTERM CARREL_HOSTILE*"}, quickly...)
		if v.tty {
			options[2] = "-tt"
		}
		if v.agent {
			options = append(options, "-A")
		}
		if v.set != nil {
			options = append(options, "-o", "SetEnv="+strings.Join(v.set, " "))
		}
		open := f.sshd.Command
		if f.port(v, port) == f.sshd.ForcedPort {
			open = f.sshd.Forced
		}
		cmd := open(v.account, v.command, options...)
		cmd.Env = clientEnviron(v.env)
		return alone(cmd)
	}
}

// quickly has OpenSSH's client agree on keys by another method than its default
// one, sntrup761x25519-sha512, which costs 0.15 s of processor time each time.
var quickly = []string{"-o", "KexAlgorithms=curve25519-sha256"}

// openGo runs this very program as a client; see goClient.
func (f *fixture) openGo(port int) func(visit) *exec.Cmd {
	return func(v visit) *exec.Cmd {
		self, err := os.Executable()
		if err != nil {
			self = "/proc/self/exe"
		}
		cmd := exec.Command(self, f.clientArgs(v, port)...)
		cmd.Env = append(clientEnviron(v.env), clientEnv+"=1", setEnv+"="+strings.Join(v.set, " "))
		if v.agent {
			cmd.Env = append(cmd.Env, forwardEnv+"=1")
		}
		return alone(cmd)
	}
}

// clientArgs is what our own small clients are called with: port, user, key,
// "tty" or "pipe", and the command.
func (f *fixture) clientArgs(v visit, port int) []string {
	kind := "pipe"
	if v.tty {
		kind = "tty"
	}
	return []string{strconv.Itoa(f.port(v, port)), v.account.Name, f.key(), kind, v.command}
}

func openSu(v visit) *exec.Cmd {
	args := []string{"-", v.account.Name}
	if v.command != "" {
		args = append(args, "-c", v.command)
	}
	cmd := exec.Command("su", args...)
	cmd.Env = clientEnviron(v.env)
	return alone(cmd)
}

func (f *fixture) openDirect(v visit) *exec.Cmd {
	args := []string{"-l"}
	if v.command != "" {
		args = []string{"-c", v.command}
	}
	cmd := f.Direct(v.account, args...)
	if v.oracle {
		attr := cmd.SysProcAttr
		cmd = exec.Command("/bin/bash", args...)
		cmd.Args[0] = "bash"
		cmd.Env, cmd.Dir, cmd.SysProcAttr = v.account.Environ(), v.account.Home, attr
	}
	cmd.Env = append(cmd.Env, "TERM=xterm-256color")
	cmd.Env = append(cmd.Env, v.env...)
	return cmd
}

// clientEnviron is the environment of a client on the host.
func clientEnviron(env []string) []string {
	return append([]string{
		"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/nonexistent",
		"LANG=C.UTF-8", "TERM=xterm-256color",
	}, env...)
}

// alone gives a client a session of its own, so that it finds no terminal but
// the one that it is given.
func alone(cmd *exec.Cmd) *exec.Cmd {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	cmd.Dir = "/"
	return cmd
}

// testdata is the absolute path of a file of ours.
func testdata(name string) string {
	path, err := filepath.Abs(filepath.Join("testdata", name))
	if err != nil {
		return name
	}
	return path
}
