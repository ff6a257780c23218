package host

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"sync"
	"syscall"
	"time"

	"github.com/creack/pty"
	"golang.org/x/sys/unix"
)

// A Terminal is a program run on a terminal of its own, with a person's eyes
// and fingers: what it shows is waited for, what is typed is sent.
type Terminal struct {
	cmd    *exec.Cmd
	master *os.File
	ended  chan struct{} // closed when the program's side is closed

	mu     sync.Mutex
	screen []byte // all that was shown and not yet passed by Expect
	all    []byte
}

// OnTerminal starts cmd on a new terminal of that size. The caller closes it.
func OnTerminal(cmd *exec.Cmd, rows, cols uint16) (*Terminal, error) {
	master, tty, err := pty.Open()
	if err != nil {
		return nil, err
	}
	defer tty.Close()
	if err := start(cmd, master, tty, rows, cols); err != nil {
		master.Close()
		return nil, err
	}
	// Package pty has made the file a blocking one, which is not closed while
	// somebody reads it: nothing would hang up.
	if master, err = interruptible(master); err != nil {
		return nil, err
	}
	t := &Terminal{cmd: cmd, master: master, ended: make(chan struct{})}
	go t.watch()
	return t, nil
}

// interruptible returns f as a file whose Close ends a Read, and closes f.
func interruptible(f *os.File) (*os.File, error) {
	defer f.Close()
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("fcntl", err)
	}
	if err := unix.SetNonblock(fd, true); err != nil {
		unix.Close(fd)
		return nil, os.NewSyscallError("fcntl", err)
	}
	return os.NewFile(uintptr(fd), f.Name()), nil
}

func start(cmd *exec.Cmd, master, tty *os.File, rows, cols uint16) error {
	if err := pty.Setsize(master, &pty.Winsize{Rows: rows, Cols: cols}); err != nil {
		return err
	}
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	if as := cmd.SysProcAttr.Credential; as != nil { // as sshd and login do
		if err := tty.Chown(int(as.Uid), -1); err != nil {
			return err
		}
	}
	cmd.SysProcAttr.Setsid, cmd.SysProcAttr.Setctty = true, true
	cmd.Stdin, cmd.Stdout, cmd.Stderr = tty, tty, tty
	return cmd.Start()
}

func (t *Terminal) watch() {
	defer close(t.ended)
	chunk := make([]byte, 4096)
	for {
		n, err := t.master.Read(chunk)
		t.mu.Lock()
		t.screen = append(t.screen, chunk[:n]...)
		t.all = append(t.all, chunk[:n]...)
		t.mu.Unlock()
		if err != nil {
			return // EIO when the last holder of the other side is gone
		}
	}
}

// Send types text.
func (t *Terminal) Send(text string) error {
	_, err := t.master.WriteString(text)
	return err
}

// Expect waits for text that matches the pattern, forgets everything up to its
// end, and returns the match with its groups.
func (t *Terminal) Expect(pattern string) ([]string, error) {
	re := regexp.MustCompile(pattern)
	for end := time.Now().Add(patience); ; time.Sleep(5 * time.Millisecond) {
		over := false
		select {
		case <-t.ended:
			over = true
		default:
		}
		t.mu.Lock()
		at := re.FindSubmatchIndex(t.screen)
		if at != nil {
			var groups []string
			for i := 0; i < len(at); i += 2 {
				if at[i] < 0 {
					groups = append(groups, "")
					continue
				}
				groups = append(groups, string(t.screen[at[i]:at[i+1]]))
			}
			t.screen = t.screen[at[1]:]
			t.mu.Unlock()
			return groups, nil
		}
		shown := string(t.screen)
		t.mu.Unlock()
		if over || time.Now().After(end) {
			return nil, fmt.Errorf("expect %q: the terminal shows %q", pattern, shown)
		}
	}
}

// Ask types a line and returns what the pattern's first group matched next.
func (t *Terminal) Ask(line, pattern string) (string, error) {
	if err := t.Send(line + "\n"); err != nil {
		return "", err
	}
	groups, err := t.Expect(pattern)
	if err != nil {
		return "", err
	}
	return groups[len(groups)-1], nil
}

// Resize changes the size of the terminal, which signals the program.
func (t *Terminal) Resize(rows, cols uint16) error {
	conn, err := t.master.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	err = conn.Control(func(fd uintptr) {
		failed = unix.IoctlSetWinsize(int(fd), unix.TIOCSWINSZ, &unix.Winsize{Row: rows, Col: cols})
	})
	return errors.Join(err, failed)
}

// Master returns the side of the terminal that a person sits at.
func (t *Terminal) Master() *os.File { return t.master }

// Pid returns the id of the program.
func (t *Terminal) Pid() int { return t.cmd.Process.Pid }

// Wait waits for the end of the program and returns all it showed as Stdout.
func (t *Terminal) Wait() Result {
	alarm := time.AfterFunc(patience, func() { _ = t.cmd.Process.Kill() })
	err := t.cmd.Wait()
	r := ended(t.cmd, err)
	if !alarm.Stop() {
		r.Err = fmt.Errorf("%s did not end", t.cmd.Path)
	}
	select {
	case <-t.ended:
	case <-time.After(time.Second): // somebody else still holds the terminal
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	r.Stdout = string(t.all)
	return r
}

// Close hangs up, as a closed window does. It does not wait.
func (t *Terminal) Close() error { return t.master.Close() }
