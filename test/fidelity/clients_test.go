package fidelity

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"

	"crypto/sha256"

	"golang.org/x/crypto/ssh"

	"github.com/carrel-sh/carrel/test/internal/host"
)

// The other clients.
const (
	paramiko = "paramiko"
	asyncssh = "asyncssh"
	libssh   = "libssh"
	npmSSH2  = "npm ssh2"
	dropbear = "dbclient"
	putty    = "plink, psftp"
)

var clientRows = []row{
	{"sftp by the client's own implementation", atOwnSFTP, ownSFTP},
}

func atOwnSFTP(d *door) bool {
	switch d.client {
	case goCrypto, paramiko, asyncssh, libssh, npmSSH2, putty:
		return true
	}
	return false
}

// otherClients returns the doors of the clients that people use besides
// OpenSSH's, in both modes that have an sshd.
func (f *fixture) otherClients() ([]*door, error) {
	f.keys = filepath.Join(f.Dir, "clients")
	if err := os.Mkdir(f.keys, 0o700); err != nil {
		return nil, err
	}
	hostKey, err := f.prepareClients()
	if err != nil {
		return nil, err
	}
	opens := map[string]func(v visit, port int) *exec.Cmd{
		paramiko: f.script("/usr/bin/python3", testdata("client_paramiko.py")),
		asyncssh: f.script("/usr/bin/python3", testdata("client_asyncssh.py")),
		libssh:   f.script(filepath.Join(f.keys, "libssh")),
		npmSSH2:  f.script("node", filepath.Join(f.keys, "client_ssh2.js")),
		dropbear: func(v visit, port int) *exec.Cmd {
			args := []string{"-y", "-y", "-i", filepath.Join(f.keys, "dropbear"), "-p", strconv.Itoa(f.port(v, port)), "-T"}
			if v.tty {
				args[len(args)-1] = "-t"
			}
			return exec.Command("dbclient", append(args, v.account.Name+"@127.0.0.1", v.command)...)
		},
		putty: func(v visit, port int) *exec.Cmd {
			args := []string{"-batch", "-noagent", "-hostkey", hostKey, "-i", filepath.Join(f.keys, "putty"), "-P", strconv.Itoa(f.port(v, port)), "-T"}
			if v.tty {
				args[len(args)-1] = "-t"
			}
			return exec.Command("plink", append(args, v.account.Name+"@127.0.0.1", v.command)...)
		},
	}
	var doors []*door
	for _, client := range []string{paramiko, asyncssh, libssh, npmSSH2, dropbear, putty} {
		for _, mode := range []string{passwd, forced} {
			port := f.sshd.Port
			if mode == forced {
				port = f.sshd.ForcedPort
			}
			doors = append(doors, &door{mode: mode, client: client, open: func(v visit) *exec.Cmd {
				cmd := alone(opens[client](v, port))
				cmd.Env = append(clientEnviron(v.env), "HOME="+f.keys)
				return cmd
			}})
		}
	}
	return doors, nil
}

// script returns how one of our small clients is called.
func (f *fixture) script(program ...string) func(visit, int) *exec.Cmd {
	return func(v visit, port int) *exec.Cmd {
		return exec.Command(program[0], append(program[1:], f.clientArgs(v, port)...)...)
	}
}

// prepareClients builds and installs what the clients need, converts the key,
// and returns the server's in PuTTY's spelling.
func (f *fixture) prepareClients() (string, error) {
	pem, err := os.ReadFile(filepath.Join(filepath.Dir(f.key()), "host"))
	if err != nil {
		return "", err
	}
	signer, err := ssh.ParsePrivateKey(pem)
	if err != nil {
		return "", err
	}
	script, err := os.ReadFile(testdata("client_ssh2.js"))
	if err != nil {
		return "", err
	}
	if err := os.WriteFile(filepath.Join(f.keys, "client_ssh2.js"), script, 0o600); err != nil {
		return "", err
	}
	for _, file := range []string{"package.json", "package-lock.json"} {
		data, err := os.ReadFile(testdata(file))
		if err != nil {
			return "", err
		}
		if err := os.WriteFile(filepath.Join(f.keys, file), data, 0o600); err != nil {
			return "", err
		}
	}
	for _, args := range [][]string{
		{"dropbearconvert", "openssh", "dropbear", f.key(), "dropbear"},
		{"puttygen", f.key(), "-O", "private", "-o", "putty"},
		{"gcc", "-O1", "-o", "libssh", testdata("client_libssh.c"), "-lssh"},
		{"npm", "ci", "--prefer-offline", "--silent", "--no-audit", "--no-fund", "--omit=optional", "--ignore-scripts"},
	} {
		cmd := exec.Command(args[0], args[1:]...)
		cmd.Dir = f.keys
		if out, err := cmd.CombinedOutput(); err != nil {
			return "", fmt.Errorf("%q: %w: %s", args, err, out)
		}
	}
	sum := sha256.Sum256(signer.PublicKey().Marshal())
	return "SHA256:" + strings.TrimRight(base64.StdEncoding.EncodeToString(sum[:]), "="), nil
}

// ownSFTP sends a file there and back.
func ownSFTP(s *scene) error {
	dir, err := s.scratch()
	if err != nil {
		return err
	}
	up, back := filepath.Join(dir, "up"), filepath.Join(dir, "back")
	if err := os.WriteFile(up, payload(), 0o600); err != nil {
		return err
	}
	remote := "own-sftp-" + strings.ReplaceAll(s.mode, " ", "")
	cmd := s.open(s.visit(false, up+" "+remote+" "+back))
	if s.client == putty {
		cmd = s.psftp(fmt.Sprintf("put %s %s\nget %[2]s %[3]s\nrm %[2]s\nquit\n", up, remote, back))
	} else {
		cmd.Args[len(cmd.Args)-2] = "sftp"
	}
	r := host.Run(cmd)
	got, err := os.ReadFile(back)
	if r.Code != 0 || err != nil || !bytes.Equal(got, payload()) {
		return errors.Join(fmt.Errorf("%v", r), err)
	}
	return nil
}

// psftp is PuTTY's file transfer, called as its plink is.
func (s *scene) psftp(batch string) *exec.Cmd {
	cmd := s.open(s.visit(false, ""))
	var args []string
	for _, a := range cmd.Args[1 : len(cmd.Args)-1] {
		if a != "-T" {
			args = append(args, a)
		}
	}
	p := alone(exec.Command("psftp", args...))
	p.Env, p.Stdin = cmd.Env, strings.NewReader(batch)
	return p
}
