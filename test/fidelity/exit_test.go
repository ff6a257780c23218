package fidelity

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"
	"time"

	"github.com/carrel-sh/carrel/test/internal/host"
)

var exitRows = []row{
	{"exit status", everywhere, exitStatus},
	{"126 and 127 as a shell gives them", atMain, shellStatus},
	{"death by a signal", everywhere, deathBySignal},
	{"death by a signal leaves no core file of ours", only(direct), noCore},
	{"tail of 2 MiB on stderr behind a stalled reader", atMain, tail},
	{"status after exec and of subshells", atMain, subshells},
}

func exitStatus(s *scene) error {
	statuses := []int{0, 1, 42, 128, 143, 255}
	if !s.native() {
		statuses = []int{42, 255}
	}
	for _, status := range statuses {
		command := fmt.Sprintf("echo tail; exit %d", status)
		if err := s.same(command); err != nil {
			return err
		}
	}
	return nil
}

func shellStatus(s *scene) error {
	return errors.Join(s.same("no-such-command-anywhere"), s.same("/etc/passwd"), s.same("exec /nonexistent/program"),
		s.same("/usr"))
}

func deathBySignal(s *scene) error {
	signals := []string{"TERM", "KILL", "HUP", "INT", "QUIT", "SEGV", "PIPE", "USR1"}
	if !s.native() {
		signals = []string{"TERM"}
	}
	for _, sig := range signals {
		command := "kill -" + sig + " $$; echo alive"
		if err := s.same(command); err != nil {
			return err
		}
		if s.client != goCrypto {
			continue
		}
		if r := s.run(command); r.Stderr != "exit-signal: "+sig+"\n" {
			return fmt.Errorf("%q: %v; want an exit-signal message", command, r)
		}
	}
	return nil
}

// noCore has the caller allow core files, and looks who makes one.
func noCore(s *scene) error {
	dumped := func(oracle bool) (bool, error) {
		dir, err := s.scratch()
		if err != nil {
			return false, err
		}
		if err := os.Chmod(dir, 0o777); err != nil { //nolint:gosec // for the user to write into
			return false, err
		}
		cmd := s.open(s.visit(oracle, "kill -SEGV $$"))
		cmd.Args = append([]string{"bash", "-c", `ulimit -c unlimited && exec "$0" "$@"`, cmd.Path}, cmd.Args[1:]...)
		cmd.Path, cmd.Dir = "/bin/bash", dir
		r := host.Run(cmd)
		status, ok := cmd.ProcessState.Sys().(syscall.WaitStatus)
		if !ok || r.Signal != syscall.SIGSEGV {
			return false, fmt.Errorf("%v; want SIGSEGV", r)
		}
		return status.CoreDump(), nil
	}
	if ours, err := dumped(false); ours || err != nil {
		return fmt.Errorf("carrelsh dumped core: %v, %w", ours, err)
	}
	if plain, err := dumped(true); !plain || err != nil {
		return fmt.Errorf("a plain bash, that should, dumped core: %v, %w", plain, err)
	}
	return nil
}

func subshells(s *scene) error {
	return errors.Join(s.same("(exit 3); exit $?"), s.same("exec sleep 0"), s.same("exec sh -c 'exit 9'"),
		s.same("set -e; false; echo no"), s.same("true | false"), s.same("bash -c 'kill -TERM $$' 2>/dev/null"))
}

func tail(s *scene) error {
	const size = 2<<20 + 64<<10
	cmd := s.open(s.visit(false, fmt.Sprintf("head -c %d /dev/zero | tr '\\0' x >&2; printf tail >&2; exit 7", size)))
	stderr, err := cmd.StderrPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	time.Sleep(500 * time.Millisecond) // nobody reads
	alarm := time.AfterFunc(patience, func() { _ = cmd.Process.Kill() })
	defer alarm.Stop()
	all, err := io.ReadAll(stderr)
	if err != nil {
		return err
	}
	_ = cmd.Wait()
	if len(all) != size+4 || !bytes.HasSuffix(all, []byte("xtail")) || cmd.ProcessState.ExitCode() != 7 {
		return fmt.Errorf("%d bytes, end %q, %v; want %d, xtail, exit status 7", len(all), all[max(0, len(all)-8):], cmd.ProcessState, size+4)
	}
	return nil
}
