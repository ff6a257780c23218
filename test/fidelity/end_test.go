package fidelity

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"syscall"
	"time"

	"github.com/carrel-sh/carrel/test/internal/host"
)

var endRows = []row{
	{"ends while a background job holds the streams", everywhere, endsWithJob},
	{"ends while a background job holds the terminal", atMain, endsWithJobTTY},
	{"client vanishes, no terminal: all of the session is ended", atMain, func(s *scene) error { return s.vanish(false) }},
	{"client vanishes, terminal: all of the session is ended", atMain, func(s *scene) error { return s.vanish(true) }},
	{"nohup job survives logout", atMain, nohup},
	{"linger = \"kill\": nohup, setsid and tmux end with the session", atMain, lingerKill},
	{"TERM, INT and HUP to carrelsh reach the command", atMain, signalsReach},
	{"TERM and INT to carrelsh reach the foreground group of a terminal", atMain, signalsReachTTY},
	{"a signal message of the client reaches the command", func(d *door) bool { return d.client == goCrypto }, signalMessage},
}

// left counts the processes inside with that command line.
func (s *scene) left(args string) string { return s.in("pgrep -fxc '" + args + "'") }

// OpenSSH's server waits for the last holder of the streams, so a plain
// account hangs here. Carrel ends; the job runs on.
func endsWithJob(s *scene) error {
	r := s.run("sleep 5011 & echo out; exit 3")
	if r.Err != nil || r.Code != 3 || r.Stdout != "out\n" {
		return fmt.Errorf("%v", r)
	}
	if n := s.left("sleep 5011"); n != "1" {
		return fmt.Errorf("%s jobs are left; want the one", n)
	}
	s.in("pkill -fx 'sleep 5011'")
	return nil
}

func endsWithJobTTY(s *scene) error {
	term, err := s.terminal("")
	if err != nil {
		return err
	}
	if err := term.Send("sleep 5012 & echo last''words; exit 3\n"); err != nil {
		return err
	}
	r := term.Wait()
	s.in("pkill -fx 'sleep 5012'")
	if r.Err != nil || r.Code != 3 || !strings.Contains(r.Stdout, "lastwords") {
		return fmt.Errorf("%v", r)
	}
	return nil
}

func nohup(s *scene) error {
	const command = "nohup sleep 5013 >/dev/null 2>&1 </dev/null & echo started"
	if r := s.run(command); r.Code != 0 || r.Stdout != "started\n" {
		return fmt.Errorf("%v", r)
	}
	if n := s.left("sleep 5013"); n != "1" {
		return fmt.Errorf("%s jobs are left; want the one", n)
	}
	s.in("pkill -fx 'sleep 5013'")
	return nil
}

// lingerKill leaves the same behind as other rows do, in vain.
func lingerKill(s *scene) error {
	a := s.ruled["kill"]
	defer s.lock(a)()
	const command = `nohup sleep 5041 >/dev/null 2>&1 </dev/null & (setsid sh -c 'sleep 5041 & sleep 5041 & wait' >/dev/null 2>&1 </dev/null &)
tmux -L kill -f /dev/null new-session -d 'sleep 5041'
for i in $(seq 100); do test $(pgrep -fxc 'sleep 5041') = 4 && echo four && break; sleep 0.05; done; exit 3`
	if r := s.runs(s.at(a, command), nil); r.Code != 3 || r.Stdout != "four\n" {
		return fmt.Errorf("%v", r)
	}
	left := func() string { return strings.TrimSpace(s.In(a, "pgrep -fxc 'sleep 5041'; pgrep -c tmux", nil).Stdout) }
	if !eventually(func() bool { return left() == "0\n0" }) {
		return fmt.Errorf("left inside: %q", left())
	}
	return nil
}

// vanishing leaves a child, a grandchild that has no parent any more, a
// process that ignores SIGHUP, and one that left the session, for which it waits.
const vanishing = `rm -f hup; trap 'echo got >>hup' HUP; sleep 5021 & (sh -c 'sleep 5022 & sleep 5022 & wait' & ) ; nohup sleep 5023 >/dev/null 2>&1 & setsid sleep 5024 </dev/null >/dev/null 2>&1 &
until pgrep -fx 'sleep 5024' >/dev/null; do sleep 0.1; done; echo re''ady; while :; do wait; sleep 5021; done`

func (s *scene) vanish(tty bool) error {
	if tty {
		term, err := s.terminal("")
		if err != nil {
			return err
		}
		// The terminal is hung up when a read of its other side returns, and for
		// that something must be written.
		line := strings.ReplaceAll(strings.ReplaceAll(vanishing, "\n", " "), "wait; sleep 5021", "sleep 0.2; echo tick")
		if err := term.Send(line + "\n"); err != nil {
			return err
		}
		if _, err := term.Expect(`ready\r\n`); err != nil {
			return err
		}
		if s.client != local { // a killed client closes its connection
			_ = syscall.Kill(term.Pid(), syscall.SIGKILL)
		}
		term.Close()
	} else {
		p, err := s.start(s.visit(false, vanishing))
		if err != nil {
			return err
		}
		_ = p.cmd.Process.Kill()
		for _, pipe := range p.pipes {
			pipe.Close()
		}
	}
	if n := s.left("sleep 5021"); n == "" {
		return errors.New("pgrep does not answer")
	}
	gone := eventually(func() bool { return s.left("sleep 502[123]") == "0" })
	stayed := s.left("sleep 5024")
	left := s.in("pgrep -fa 'sleep 502[1234]'")
	s.in("pkill -KILL -fx 'sleep 502[1234]'")
	if !gone {
		return fmt.Errorf("left inside: %q", left)
	}
	if stayed != "1" {
		return fmt.Errorf("%s of what left the session by setsid is left; want 1", stayed)
	}
	if hup := s.in("cat hup"); !strings.HasPrefix(hup, "got") {
		return fmt.Errorf("the shell was not told by SIGHUP: %q", hup)
	}
	return nil
}

// carrelsh returns the pid of the user's carrelsh, of which there must be one.
func (s *scene) carrelsh() (int, error) {
	var pids []int
	found := eventually(func() bool {
		all, err := host.Processes()
		if err != nil {
			return false
		}
		pids = nil
		for _, p := range all {
			if p.Exe == s.Path("carrelsh") && p.UID == s.user.UID {
				pids = append(pids, p.Pid)
			}
		}
		return len(pids) == 1
	})
	if !found {
		return 0, fmt.Errorf("%d carrelsh of the user run; want 1", len(pids))
	}
	return pids[0], nil
}

// trapping is ready when carrelsh has been there for a while: signals of the
// first moment end it, and with it the session.
const trapping = `trap 'echo got TERM; exit 9' TERM; trap 'echo got INT; exit 10' INT; trap 'echo got HUP; exit 11' HUP
sleep 0.3; echo ready; while :; do sleep 0.1; done`

func signalsReach(s *scene) error {
	for sig, want := range map[syscall.Signal]string{syscall.SIGTERM: "TERM", syscall.SIGINT: "INT", syscall.SIGHUP: "HUP"} {
		p, err := s.start(s.visit(false, trapping))
		if err != nil {
			return err
		}
		pid, err := s.carrelsh()
		if err != nil {
			return err
		}
		if err := syscall.Kill(pid, sig); err != nil {
			return err
		}
		rest, err := io.ReadAll(p.out)
		_ = p.cmd.Wait()
		if string(rest) != "got "+want+"\n" || p.cmd.ProcessState.ExitCode() < 9 {
			return fmt.Errorf("SIG%s: %q, %v, %w", want, rest, p.cmd.ProcessState, err)
		}
	}
	return nil
}

func signalsReachTTY(s *scene) error {
	term, err := s.terminal("")
	if err != nil {
		return err
	}
	for i, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT} {
		// Not the shell but its job is in the foreground.
		job := fmt.Sprintf(`bash -c 'trap "echo got%d; exit 9" TERM INT; echo re""ady; while :; do sleep 0.1; done'; echo st=$?`, i)
		if err := term.Send(job + "\n"); err != nil {
			return err
		}
		if _, err := term.Expect(`ready\r\n`); err != nil {
			return err
		}
		pid, err := s.carrelsh()
		if err != nil {
			return err
		}
		if err := syscall.Kill(pid, sig); err != nil {
			return err
		}
		if _, err := term.Expect(fmt.Sprintf(`got%d\r\n(?s:.*)st=9\r`, i)); err != nil {
			return err
		}
	}
	return nil
}

// signalMessage sends what RFC 4254 section 6.9 has for it.
func signalMessage(s *scene) error {
	client, err := s.sshd.DialPort(s.tcp(), s.user)
	if err != nil {
		return err
	}
	defer client.Close()
	session, err := client.NewSession()
	if err != nil {
		return err
	}
	out, err := session.StdoutPipe()
	if err != nil {
		return err
	}
	if err := session.Start(trapping); err != nil {
		return err
	}
	line := make([]byte, len("ready\n"))
	if _, err := io.ReadFull(out, line); err != nil {
		return err
	}
	if _, err := s.carrelsh(); err != nil {
		return err
	}
	if err := session.Signal("TERM"); err != nil {
		return err
	}
	alarm := time.AfterFunc(patience/10, func() { client.Close() })
	defer alarm.Stop()
	rest, err := io.ReadAll(out)
	if string(rest) != "got TERM\n" {
		return fmt.Errorf("%q, %w", rest, err)
	}
	return nil
}
