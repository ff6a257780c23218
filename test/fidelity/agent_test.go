package fidelity

import (
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"golang.org/x/crypto/ssh/agent"

	"github.com/carrel-sh/carrel/test/internal/host"
)

func atAgent(d *door) bool { return atMain(d) && d.mode != suMode }

var agentRows = []row{
	{"agent forwarding", atAgent, agentForwarded},
	{"the newest session's agent answers; gone with the last", atAgent, agentNewest},
	{"an old tmux finds the new agent", atAgent, agentInTmux},
	{"agent_forwarding = false refuses it", atAgent, agentRefused},
}

// serveAgent is an SSH agent with one key of that name.
func (s *scene) serveAgent(name string) (string, error) {
	dir, err := s.scratch()
	if err != nil {
		return "", err
	}
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return "", err
	}
	keys := agent.NewKeyring()
	if err := keys.Add(agent.AddedKey{PrivateKey: key, Comment: name}); err != nil {
		return "", err
	}
	path := filepath.Join(dir, "agent")
	l, err := net.Listen("unix", path)
	if err != nil {
		return "", err
	}
	s.later(func() { l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				_ = agent.ServeAgent(keys, conn)
			}()
		}
	}()
	// Open to all, for s.user is not the only one who asks.
	return path, errors.Join(os.Chmod(dir, 0o711), os.Chmod(path, 0o666)) //nolint:gosec // a test's
}

// withAgent is a visit that brings an agent.
func (s *scene) withAgent(socket, command string) visit {
	v := s.visit(false, command)
	v.agent, v.env = true, []string{"SSH_AUTH_SOCK=" + socket}
	return v
}

func agentForwarded(s *scene) error {
	socket, err := s.serveAgent("the-key")
	if err != nil {
		return err
	}
	r := s.runs(s.withAgent(socket, "echo $SSH_AUTH_SOCK; ssh-add -l; stat -c '%a %U' $SSH_AUTH_SOCK"), nil)
	want := regexp.MustCompile(`^/run/\.carrel/agent\.sock\n256 SHA256:\S+ the-key \(ED25519\)\n600 ` + s.user.Name + `\n$`)
	if r.Code != 0 || !want.MatchString(r.Stdout) {
		return fmt.Errorf("%v", r)
	}
	// The twin: who brings no agent has none.
	if r := s.run("echo ${SSH_AUTH_SOCK-unset}; ssh-add -l 2>/dev/null"); r.Code != 2 || r.Stdout != "unset\n" {
		return fmt.Errorf("without an agent: %v", r)
	}
	return nil
}

func agentRefused(s *scene) error {
	socket, err := s.serveAgent("refused")
	if err != nil {
		return err
	}
	a := s.ruled["noagent"]
	defer s.lock(a)()
	v := s.withAgent(socket, "echo ${SSH_AUTH_SOCK-unset}; ls -A /run/.carrel | grep -c agent; ssh-add -l 2>&1 | grep -c refused")
	v.account = a
	if r := s.runs(v, nil); r.Stdout != "unset\n0\n0\n" {
		return fmt.Errorf("%v", r)
	}
	return nil
}

func (s *scene) agentSession(name string) (*host.Terminal, error) {
	socket, err := s.serveAgent(name)
	if err != nil {
		return nil, err
	}
	term, err := s.terminals(s.withAgent(socket, ""))
	if err != nil {
		return nil, err
	}
	return term, ask(term, "ssh-add -l", `SHA256:\S+ (\S+) `, name)
}

func agentNewest(s *scene) error {
	first, err := s.agentSession("first")
	if err != nil {
		return err
	}
	second, err := s.agentSession("second")
	if err != nil {
		return err
	}
	if err := ask(first, "ssh-add -l", `SHA256:\S+ (\S+) `, "second"); err != nil {
		return err
	}
	end := func(term *host.Terminal) error {
		if err := term.Send("exit 0\n"); err != nil {
			return err
		}
		if r := term.Wait(); r.Code != 0 {
			return fmt.Errorf("%v", r)
		}
		return nil
	}
	if err := end(second); err != nil {
		return err
	}
	if err := ask(first, "ssh-add -l", `SHA256:\S+ (\S+) `, "first"); err != nil {
		return err
	}
	if err := end(first); err != nil {
		return err
	}
	if got := s.in("ls /run/.carrel/agent.sock 2>&1"); !strings.Contains(got, "No such file") {
		return fmt.Errorf("after the last session: %q", got)
	}
	return nil
}

func agentInTmux(s *scene) error {
	socket, err := s.serveAgent("old")
	if err != nil {
		return err
	}
	s.later(func() { s.in("tmux -L agent kill-server") })
	if r := s.runs(s.withAgent(socket, "tmux -L agent -f /dev/null new-session -d -s a; echo $?"), nil); r.Stdout != "0\n" {
		return fmt.Errorf("%v", r)
	}
	if _, err := s.agentSession("new"); err != nil {
		return err
	}
	s.in("rm -f keys; tmux -L agent send-keys -t a 'ssh-add -l >keys; echo >>keys end' Enter")
	if !eventually(func() bool { return strings.Contains(s.in("cat keys"), "end") }) {
		return errors.New("tmux does not answer")
	}
	if got := s.in("cat keys"); !strings.Contains(got, " new ") {
		return fmt.Errorf("the old tmux sees %q", got)
	}
	return nil
}
