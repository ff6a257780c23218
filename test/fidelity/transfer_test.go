package fidelity

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/carrel-sh/carrel/test/internal/host"
)

var transferRows = []row{
	{"sftp", atSSH, sftpBatch},
	{"scp (SFTP protocol)", atSSH, func(s *scene) error { return scp(s) }},
	{"scp -O (old protocol)", atSSH, func(s *scene) error { return scp(s, "-O") }},
	{"sshfs", atSSH, sshfs},
	{"sftp, scp, scp -O and sshfs in an image that has a shell and nothing else", atSSH, bare},
	{"rsync -a", atMain, rsync},
	{"git clone and push", atMain, git},
	{"borg create and extract", atNative, borg},
	{"file transfer sees the container's files only", atSSH, insideOnly},
	{"sftp-server; sh and scp; id do not leave the container", atMain, smuggle},
}

// port is the door's TCP port.
func (s *scene) tcp() int {
	if s.mode == forced {
		return s.sshd.ForcedPort
	}
	return s.sshd.Port
}

// transfer is a program of OpenSSH's with the options to get in.
func (s *scene) transfer(program string, args ...string) host.Result {
	all := append(append(s.sshd.Options(), quickly...), "-P", strconv.Itoa(s.tcp()))
	cmd := alone(exec.Command(program, append(all, args...)...))
	cmd.Env = clientEnviron(nil)
	return host.Run(cmd)
}

// remote is user@host of the door.
func (s *scene) remote() string { return s.user.Name + "@127.0.0.1" }

// rsh is a command line that reaches the door as ssh does, for programs that
// take one: the host's name is swallowed, the command follows.
func (s *scene) rsh(dir string) (string, error) {
	var line string
	switch {
	case s.client == goCrypto:
		args := s.open(s.visit(false, "")).Args
		line = fmt.Sprintf("shift; exec env %s=1 %s \"$*\"", clientEnv, strings.Join(quote(args[:len(args)-1]), " "))
	case s.atSSHD():
		line = fmt.Sprintf("shift; exec ssh %s -p %d -l %s 127.0.0.1 \"$@\"", strings.Join(append(s.sshd.Options(), quickly...), " "), s.tcp(), s.user.Name)
	case s.mode == suMode:
		line = fmt.Sprintf("shift; exec su - %s -c \"$*\"", s.user.Name)
	default:
		line = fmt.Sprintf("shift; exec setpriv --reuid %d --regid %d --clear-groups %s -c \"$*\"", s.user.UID, s.user.GID, s.Path("carrelsh"))
	}
	path := filepath.Join(dir, "rsh")
	return path, os.WriteFile(path, []byte("#!/bin/sh\n"+line+"\n"), 0o755) //nolint:gosec // to be executed
}

// scratch makes a directory on the host.
func (s *scene) scratch() (string, error) {
	dir, err := os.MkdirTemp("", "fidelity")
	s.later(func() { os.RemoveAll(dir) })
	return dir, err
}

// payload is a file with every byte in it, and more than one packet.
func payload() []byte {
	data := bytes.Repeat([]byte{0, 1, 2, 0xfe, 0xff, '\r', '\n', 0x1a}, 40<<10)
	for i := range 256 {
		data[i] = byte(i)
	}
	return data
}

func sftpBatch(s *scene) error {
	dir, err := s.scratch()
	if err != nil {
		return err
	}
	up, down, batch := filepath.Join(dir, "up"), filepath.Join(dir, "down"), filepath.Join(dir, "batch")
	commands := fmt.Sprintf("mkdir sftpd\ncd sftpd\nput %s a\nchmod 640 a\nrename a b\nsymlink b c\nls -l\nget c %s\npwd\nrm b\nrm c\ncd ..\nrmdir sftpd\n", up, down)
	if err := errors.Join(os.WriteFile(up, payload(), 0o600), os.WriteFile(batch, []byte(commands), 0o600)); err != nil {
		return err
	}
	r := s.transfer("sftp", "-b", batch, s.remote())
	got, err := os.ReadFile(down)
	if r.Code != 0 || err != nil || !bytes.Equal(got, payload()) {
		return fmt.Errorf("%v, %w, equal %v", r, err, bytes.Equal(got, payload()))
	}
	if !strings.Contains(r.Stdout, "Remote working directory: "+s.user.Home+"/sftpd") || !strings.Contains(r.Stdout, "-rw-r-----") {
		return fmt.Errorf("%v", r)
	}
	return nil
}

func scp(s *scene, options ...string) error {
	dir, err := s.scratch()
	if err != nil {
		return err
	}
	tree, back := filepath.Join(dir, "tree"), filepath.Join(dir, "back")
	if err := errors.Join(os.MkdirAll(filepath.Join(tree, "sub dir"), 0o755),
		os.WriteFile(filepath.Join(tree, "sub dir", "file"), payload(), 0o640)); err != nil {
		return err
	}
	options = append(options, "-rp")
	if r := s.transfer("scp", append(options, tree, s.remote()+":scpd")...); r.Code != 0 {
		return fmt.Errorf("up: %v", r)
	}
	s.later(func() { s.in("rm -rf scpd") })
	if got := s.in("stat -c %a 'scpd/sub dir/file'"); got != "640" {
		return fmt.Errorf("mode inside: %q", got)
	}
	if r := s.transfer("scp", append(options, s.remote()+":scpd", back)...); r.Code != 0 {
		return fmt.Errorf("down: %v", r)
	}
	got, err := os.ReadFile(filepath.Join(back, "sub dir", "file"))
	if err != nil || !bytes.Equal(got, payload()) {
		return fmt.Errorf("what came back differs: %w", err)
	}
	if r := s.transfer("scp", append(options, s.remote()+":no-such-file", back)...); r.Code != 1 || !strings.Contains(r.Stderr, "o such file") {
		return fmt.Errorf("a missing file: %v", r)
	}
	return nil
}

func sshfs(s *scene) error {
	dir, err := s.mount(s.user)
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, "mounted"), payload(), 0o600); err != nil {
		return err
	}
	if got := s.in("wc -c <mounted; rm mounted"); got != strconv.Itoa(len(payload())) {
		return fmt.Errorf("inside the file has %q bytes", got)
	}
	s.in("echo inside >made")
	got, err := os.ReadFile(filepath.Join(dir, "made"))
	if string(got) != "inside\n" {
		return fmt.Errorf("%q, %w", got, err)
	}
	return nil
}

// mount mounts the account's home in the container by sshfs.
func (s *scene) mount(a host.Account) (string, error) {
	dir, err := s.scratch()
	if err != nil {
		return "", err
	}
	args := []string{a.Name + "@127.0.0.1:", dir, "-p", strconv.Itoa(s.tcp()), "-o", "idmap=user"}
	options := append(s.sshd.Options(), quickly...)
	for i := 0; i+1 < len(options); i += 2 {
		switch options[i] {
		case "-o":
			args = append(args, "-o", options[i+1])
		case "-i":
			args = append(args, "-o", "IdentityFile="+options[i+1])
		}
	}
	// Its standard streams are not pipes of ours, which the daemon would hold.
	log, err := os.Create(dir + ".log")
	if err != nil {
		return "", err
	}
	defer os.Remove(log.Name())
	defer log.Close()
	cmd := alone(exec.Command("sshfs", args...))
	cmd.Env, cmd.Stdout, cmd.Stderr = clientEnviron(nil), log, log
	if r := host.Run(cmd); r.Code != 0 {
		text, _ := os.ReadFile(log.Name())
		return "", fmt.Errorf("%v: %s", r, text)
	}
	s.later(func() { _ = exec.Command("fusermount3", "-uz", dir).Run() })
	return dir, nil
}

// bare moves a file into and out of an image without any program for it.
func bare(s *scene) error {
	a := s.ruled["bare"]
	defer s.lock(a)()
	if r := s.In(a, "type -P ls cat /usr/bin/scp /usr/lib/openssh/sftp-server; echo /bin/* /usr/bin/*", nil); r.Stdout != "/bin/bash /bin/sh /usr/bin/*\n" {
		return fmt.Errorf("the image has something: %v", r)
	}
	dir, err := s.scratch()
	if err != nil {
		return err
	}
	up, down := filepath.Join(dir, "up"), filepath.Join(dir, "down")
	batch := filepath.Join(dir, "batch")
	if err := errors.Join(os.WriteFile(up, payload(), 0o600),
		os.WriteFile(batch, []byte("put "+up+" file\nget file "+down+"\nrm file\n"), 0o600)); err != nil {
		return err
	}
	remote := a.Name + "@127.0.0.1"
	for _, calls := range [][][]string{
		{{"sftp", "-b", batch, remote}},
		{{"scp", up, remote + ":file"}, {"scp", remote + ":file", down}},
		{{"scp", "-O", up, remote + ":file"}, {"scp", "-O", remote + ":file", down}},
	} {
		_ = os.Remove(down)
		for _, call := range calls {
			if r := s.transfer(call[0], call[1:]...); r.Code != 0 {
				return fmt.Errorf("%q: %v", call, r)
			}
		}
		if got, err := os.ReadFile(down); err != nil || !bytes.Equal(got, payload()) {
			return fmt.Errorf("%q: what came back differs: %w", calls, err)
		}
	}
	mounted, err := s.mount(a)
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(mounted, "text"), []byte("by sshfs\n"), 0o600); err != nil {
		return err
	}
	if r := s.In(a, "echo $(<text)", nil); r.Stdout != "by sshfs\n" {
		return fmt.Errorf("inside: %v", r)
	}
	return nil
}

func rsync(s *scene) error {
	dir, err := s.scratch()
	if err != nil {
		return err
	}
	rsh, err := s.rsh(dir)
	if err != nil {
		return err
	}
	tree, back := filepath.Join(dir, "tree"), filepath.Join(dir, "back")
	if err := errors.Join(os.MkdirAll(filepath.Join(tree, "sub"), 0o755), os.Symlink("sub", filepath.Join(tree, "link")),
		os.WriteFile(filepath.Join(tree, "sub", "file"), payload(), 0o640)); err != nil {
		return err
	}
	for _, args := range [][]string{{tree + "/", "carrel:rsyncd"}, {"carrel:rsyncd/", back}} {
		cmd := alone(exec.Command("rsync", append([]string{"-az", "-e", rsh}, args...)...))
		cmd.Env = clientEnviron(nil)
		if r := host.Run(cmd); r.Code != 0 {
			return fmt.Errorf("rsync %q: %v", args, r)
		}
	}
	s.later(func() { s.in("rm -rf rsyncd") })
	got, err := os.ReadFile(filepath.Join(back, "sub", "file"))
	link, _ := os.Readlink(filepath.Join(back, "link"))
	if err != nil || !bytes.Equal(got, payload()) || link != "sub" {
		return fmt.Errorf("what came back differs: %w", err)
	}
	return nil
}

func git(s *scene) error {
	dir, err := s.scratch()
	if err != nil {
		return err
	}
	rsh, err := s.rsh(dir)
	if err != nil {
		return err
	}
	s.in("rm -rf repo.git; git init -q --bare -b main repo.git")
	s.later(func() { s.in("rm -rf repo.git") })
	script := `set -e
git clone -q carrel:repo.git work
cd work
git checkout -q -b main
head -c 300000 /dev/urandom >big; git add big
git commit -q -m one
git push -q origin main
cd ..
git clone -q -b main carrel:repo.git again
cmp work/big again/big
echo fine`
	cmd := alone(exec.Command("sh", "-c", script))
	cmd.Dir = dir
	cmd.Env = append(clientEnviron(nil), "GIT_SSH="+rsh, "GIT_SSH_VARIANT=simple", "HOME="+dir,
		"GIT_AUTHOR_NAME=a", "GIT_AUTHOR_EMAIL=a@example.com", "GIT_COMMITTER_NAME=a", "GIT_COMMITTER_EMAIL=a@example.com")
	if r := host.Run(cmd); r.Code != 0 || r.Stdout != "fine\n" {
		return fmt.Errorf("%v", r)
	}
	if got := s.in("git -C repo.git log --format=%s main"); got != "one" {
		return fmt.Errorf("the log inside: %q", got)
	}
	return nil
}

// borg keeps a repository in the container's home.
func borg(s *scene) error {
	dir, err := s.scratch()
	if err != nil {
		return err
	}
	rsh, err := s.rsh(dir)
	if err != nil {
		return err
	}
	s.later(func() { s.in("rm -rf borgd") })
	script := `set -e
borg init -e none "$REPO"
borg create "$REPO::one" file
mkdir back; cd back
borg extract "$REPO::one"
cmp file ../file
echo fine`
	cmd := alone(exec.Command("sh", "-c", script))
	cmd.Dir = dir
	cmd.Env = append(clientEnviron(nil), "REPO=carrel:borgd", "BORG_RSH="+rsh, "HOME="+dir)
	if err := os.WriteFile(filepath.Join(dir, "file"), payload(), 0o600); err != nil {
		return err
	}
	if r := host.Run(cmd); r.Code != 0 || r.Stdout != "fine\n" {
		return fmt.Errorf("%v", r)
	}
	if got := s.in("test -s borgd/config && echo there"); got != "there" {
		return fmt.Errorf("no repository inside: %q", got)
	}
	return nil
}

// insideOnly asks for a file that the user may read on the host.
func insideOnly(s *scene) error {
	mark := filepath.Join("/tmp", s.user.Name+"-"+strconv.Itoa(s.tcp()))
	if err := os.WriteFile(mark, []byte("host"), 0o644); err != nil { //nolint:gosec // for the user to find
		return err
	}
	defer os.Remove(mark)
	dir, err := s.scratch()
	if err != nil {
		return err
	}
	for _, options := range [][]string{{"-O"}, {}} {
		if r := s.transfer("scp", append(options, s.remote()+":"+mark, dir)...); r.Code == 0 {
			return fmt.Errorf("scp %q read a file of the host: %v", options, r)
		}
		s.in("echo inside >" + mark)
		if r := s.transfer("scp", append(options, s.remote()+":"+mark, dir+"/got")...); r.Code != 0 {
			return fmt.Errorf("%v", r)
		}
		if got, _ := os.ReadFile(dir + "/got"); string(got) != "inside\n" {
			return fmt.Errorf("scp %q read %q", options, got)
		}
		s.in("rm " + mark)
	}
	return nil
}

func smuggle(s *scene) error {
	outside, err := os.Readlink("/proc/self/ns/pid")
	if err != nil {
		return err
	}
	for _, command := range []string{
		"scp -t /nonexistent </dev/null; readlink /proc/self/ns/pid",
		"/usr/lib/openssh/sftp-server </dev/null; readlink /proc/self/ns/pid",
		"internal-sftp; readlink /proc/self/ns/pid",
		"rsync --server . </dev/null; readlink /proc/self/ns/pid",
		s.Path("carrelsh") + "; readlink /proc/self/ns/pid",
		s.Path("carrelsh") + " -c 'true' || readlink /proc/self/ns/pid",
	} {
		r := s.run(command)
		if !strings.Contains(r.Stdout, "pid:[") || strings.Contains(r.Stdout, outside) {
			return fmt.Errorf("%q: %v", command, r)
		}
	}
	return nil
}
