package host

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"syscall"
	"time"
)

// A Result is how a program ended and what it wrote.
type Result struct {
	Stdout, Stderr string
	Code           int            // exit status, -1 after a signal
	Signal         syscall.Signal // that ended it, or 0
	Err            error          // it could not be run or waited for
}

// String shows a result in a test's message.
func (r Result) String() string {
	how := fmt.Sprintf("exit %d", r.Code)
	if r.Signal != 0 {
		how = "signal " + r.Signal.String()
	}
	if r.Err != nil {
		how = r.Err.Error()
	}
	return fmt.Sprintf("%s, stdout %q, stderr %q", how, abbreviate(r.Stdout), abbreviate(r.Stderr))
}

func abbreviate(s string) string {
	if len(s) > 800 {
		return s[:400] + "[…]" + s[len(s)-400:]
	}
	return s
}

// Run runs cmd to its end, within patience, and gathers the streams that the
// caller did not direct elsewhere. It is safe for concurrent use.
func Run(cmd *exec.Cmd) Result {
	var stdout, stderr bytes.Buffer
	if cmd.Stdout == nil {
		cmd.Stdout = &stdout
	}
	if cmd.Stderr == nil {
		cmd.Stderr = &stderr
	}
	cmd.WaitDelay = patience
	if err := cmd.Start(); err != nil {
		return Result{Code: -1, Err: err}
	}
	alarm := time.AfterFunc(2*patience, func() { _ = cmd.Process.Kill() })
	r := ended(cmd, cmd.Wait())
	if !alarm.Stop() {
		r.Err = fmt.Errorf("%s did not end", cmd.Path)
	}
	r.Stdout, r.Stderr = stdout.String(), stderr.String()
	return r
}

// ended tells how a process ended that was waited for with err.
func ended(cmd *exec.Cmd, err error) Result {
	r := Result{Code: cmd.ProcessState.ExitCode()}
	if status, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		r.Signal = status.Signal()
	}
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		r.Err = err
	}
	return r
}

// Direct returns carrelsh called by hand: with the ids of the account, without
// sshd, login or su, and with the arguments given.
func (h *Host) Direct(a Account, args ...string) *exec.Cmd {
	cmd := exec.Command(h.Path("carrelsh"), args...)
	cmd.Env = a.Environ()
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: a.Credential(), Setsid: true}
	return cmd
}

// An Entry is one way to get a command run in a session of an account.
type Entry struct {
	Name string
	// Local is set where the caller sees carrelsh's own wait status.
	Local bool
	// Command returns the client's command, ready to run. It is safe for
	// concurrent use.
	Command func(a Account, command string) *exec.Cmd
}

// Entries returns every way in that the host offers; the ones through sshd
// only after ServeSSH.
func (h *Host) Entries() []Entry {
	entries := []Entry{
		{Name: "direct", Local: true, Command: func(a Account, command string) *exec.Cmd {
			return h.Direct(a, "-c", command)
		}},
		{Name: "su", Command: func(a Account, command string) *exec.Cmd {
			return exec.Command("su", a.Name, "-c", command)
		}},
		{Name: "su -", Command: func(a Account, command string) *exec.Cmd {
			return exec.Command("su", "-", a.Name, "-c", command)
		}},
	}
	if h.sshd != nil {
		entries = append(entries,
			Entry{Name: "ssh", Command: func(a Account, command string) *exec.Cmd {
				return h.sshd.Command(a, command)
			}},
			Entry{Name: "ForceCommand", Command: func(a Account, command string) *exec.Cmd {
				return h.sshd.Forced(a, command)
			}})
	}
	return entries
}

// In runs command in a session of the account, carrelsh called directly, with
// stdin when it is not nil. It is safe for concurrent use.
func (h *Host) In(a Account, command string, stdin io.Reader) Result {
	cmd := h.Direct(a, "-c", command)
	cmd.Stdin = stdin
	return Run(cmd)
}
