package fidelity

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/carrel-sh/carrel/test/internal/host"
)

var automationRows = []row{
	{"install script of a remote editor on stdin, daemon left behind", atMain, editorScript},
	{"Ansible ping and a playbook", atSSH, ansible},
	{"mosh-server starts", atMain, moshServer},
}

// editorScript is what remote editors run: a shell with a long script on
// stdin and no terminal, which reports where its daemon listens.
func editorScript(s *scene) error {
	const script = `set -e
mkdir -p .server && cd .server
cat >server.sh <<'END'
#!/bin/sh
echo listening >log
exec sleep 6011
END
chmod +x server.sh
seq 1 20000
echo noise >&2
if command -v setsid >/dev/null; then setsid nohup ./server.sh >out 2>&1 </dev/null & else nohup ./server.sh & fi
echo $! >pid
while ! grep -q listening log 2>/dev/null; do sleep 0.05; done
echo "listeningOn==1234== arch==$(uname -m)== osReleaseId==$(. /etc/os-release; echo $ID)=="
exit 0
`
	v := s.visit(false, "bash -s")
	r := s.runs(v, strings.NewReader(script))
	defer s.in("pkill -fx 'sleep 6011'; rm -rf .server")
	lines := strings.Split(strings.TrimSpace(r.Stdout), "\n")
	if r.Code != 0 || len(lines) != 20001 || !strings.HasPrefix(lines[20000], "listeningOn==1234== arch==") || r.Stderr != "noise\n" {
		return fmt.Errorf("%d lines, %v", len(lines), r)
	}
	if n := s.left("sleep 6011"); n != "1" {
		return fmt.Errorf("%s daemons are left; want 1", n)
	}
	return nil
}

const playbook = `- hosts: all
  gather_facts: false
  tasks:
    - copy: {content: "from ansible\n", dest: ansible.txt, mode: "0640"}
    - file: {path: ansible.d, state: directory}
    - lineinfile: {path: ansible.txt, line: second}
    - shell: cat ansible.txt | wc -l; id -un
      register: said
    - assert: {that: ["said.stdout_lines == ['2', inventory_user]"]}
`

func ansible(s *scene) error {
	dir, err := s.scratch()
	if err != nil {
		return err
	}
	inventory := fmt.Sprintf("carrel ansible_host=127.0.0.1 ansible_port=%d ansible_user=%[2]s inventory_user=%[2]s ansible_python_interpreter=/usr/bin/python3\n",
		s.tcp(), s.user.Name)
	config := "[defaults]\nhost_key_checking = False\nprivate_key_file = " + s.key() +
		"\n[ssh_connection]\ncontrol_path_dir = " + dir + "\nssh_args = -F none -o ControlMaster=auto -o ControlPersist=2s -o IdentitiesOnly=yes -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR -o KexAlgorithms=curve25519-sha256\n"
	if err := errors.Join(os.WriteFile(filepath.Join(dir, "hosts"), []byte(inventory), 0o600),
		os.WriteFile(filepath.Join(dir, "play.yml"), []byte(playbook), 0o600),
		os.WriteFile(filepath.Join(dir, "ansible.cfg"), []byte(config), 0o600)); err != nil {
		return err
	}
	for _, args := range [][]string{{"ansible", "-i", "hosts", "all", "-m", "ping"}, {"ansible-playbook", "-i", "hosts", "play.yml"}} {
		cmd := alone(exec.Command(args[0], args[1:]...))
		cmd.Dir, cmd.Env = dir, append(clientEnviron(nil), "HOME="+dir, "ANSIBLE_CONFIG="+dir+"/ansible.cfg", "ANSIBLE_NOCOLOR=1")
		if r := host.Run(cmd); r.Code != 0 {
			return fmt.Errorf("%s: %v", args[0], r)
		}
	}
	if got := s.in("cat ansible.txt; stat -c %a ansible.txt; rm -r ansible.txt ansible.d"); got != "from ansible\nsecond\n640" {
		return fmt.Errorf("inside: %q", got)
	}
	return nil
}

// moshServer starts what mosh starts over ssh. It detaches and prints where it
// listens.
func moshServer(s *scene) error {
	v := s.visit(false, "mosh-server new -i 127.0.0.1 -l LANG=C.UTF-8 -- /bin/sleep 6012")
	v.env = []string{"LANG=C.UTF-8"}
	r := s.runs(v, nil)
	defer s.in("pkill -x mosh-server")
	if r.Code != 0 || !regexp.MustCompile(`MOSH CONNECT \d+ \S{22}`).MatchString(r.Stdout) {
		return fmt.Errorf("%v", r)
	}
	if n := s.in("pgrep -cx mosh-server"); n == "0" {
		return errors.New("it does not run on")
	}
	return nil
}
