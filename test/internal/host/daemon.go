package host

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// A Daemon is a running carreld of a private host.
type Daemon struct {
	Pid int
	Log string // path of its standard error

	cmd    *exec.Cmd
	exited chan struct{}
}

// Options say how carreld is started. The zero value is a daemon without a
// rule of its own that admits every account whose shell is our carrelsh.
type Options struct {
	// Config follows the line that names our carrelsh as a login shell.
	Config string
	// StateDir replaces Host.StateDir when it is not empty.
	StateDir string
	// Args follow the ones that keep the daemon private.
	Args []string
	// Before is a line of bash that runs in the process before it becomes
	// carreld, such as a ulimit or a trap.
	Before string
}

// Start starts carreld and returns when it answers. A host has one at a time.
func (h *Host) Start(o Options) (*Daemon, error) {
	if h.daemon != nil && h.daemon.Running() {
		return nil, fmt.Errorf("carreld runs already, pid %d", h.daemon.Pid)
	}
	text := fmt.Sprintf("login_shells = [%q]\n%s", h.Path("carrelsh"), o.Config)
	if err := os.WriteFile(h.config(), []byte(text), 0o644); err != nil {
		return nil, err
	}
	if h.state = o.StateDir; h.state == "" {
		h.state = h.StateDir
	}
	log, err := os.OpenFile(filepath.Join(h.Dir, "carreld.log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	args := []string{
		"--run-dir", h.RunDir, "--state-dir", h.state, "--config", h.config(),
		"--cgroup", h.Cgroup, "--libexec-dir", h.Libexec(),
	}
	d := &Daemon{Log: log.Name(), exited: make(chan struct{})}
	args = append([]string{"-c", o.Before + "\nexec \"$0\" \"$@\"", h.Path("carreld")}, append(args, o.Args...)...)
	d.cmd = exec.Command("/bin/bash", args...)
	d.cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin"}
	d.cmd.Stderr = log
	d.cmd.Dir = "/"
	// A Ctrl-C at the terminal of the demo is for the demo to handle.
	d.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := d.cmd.Start(); err != nil {
		return nil, err
	}
	d.Pid = d.cmd.Process.Pid
	go func() {
		_ = d.cmd.Wait()
		close(d.exited)
	}()
	h.daemon = d
	if !eventually(func() bool { return !d.Running() || h.answers() }) || !d.Running() {
		d.Kill()
		return nil, fmt.Errorf("carreld does not answer; its log ends:\n%s", tail(d.Log))
	}
	return d, nil
}

// Daemon returns the carreld that Start started last, or nil.
func (h *Host) Daemon() *Daemon { return h.daemon }

// answers reports whether something accepts on the login socket.
func (h *Host) answers() bool {
	conn, err := h.Dial()
	if err != nil {
		return false
	}
	unix.Close(conn)
	return true
}

// Dial connects to the login socket, with the ids of the calling thread, and
// returns the descriptor.
func (h *Host) Dial() (int, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, os.NewSyscallError("socket", err)
	}
	if err := unix.Connect(fd, &unix.SockaddrUnix{Name: h.Socket()}); err != nil {
		unix.Close(fd)
		return -1, os.NewSyscallError("connect", err)
	}
	return fd, nil
}

// Stop ends carreld with SIGTERM, and the containers are left as they are.
func (h *Host) Stop() error {
	if h.daemon == nil || !h.daemon.Running() {
		return nil
	}
	return h.daemon.Terminate()
}

// Running reports whether the process has not exited yet.
func (d *Daemon) Running() bool {
	select {
	case <-d.exited:
		return false
	default:
		return true
	}
}

// Terminate sends SIGTERM and waits for the exit, which must be a clean one.
func (d *Daemon) Terminate() error {
	if err := d.cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	if !eventually(func() bool { return !d.Running() }) {
		d.Kill()
		return fmt.Errorf("carreld ignored SIGTERM; its log ends:\n%s", tail(d.Log))
	}
	if state := d.cmd.ProcessState; !state.Success() {
		return fmt.Errorf("carreld after SIGTERM: %v; its log ends:\n%s", state, tail(d.Log))
	}
	return nil
}

// Kill sends SIGKILL and waits for the exit.
func (d *Daemon) Kill() {
	_ = d.cmd.Process.Kill()
	<-d.exited
}

// Descriptors returns what the open descriptors of the process point to, those
// that come and go with Go's own runtime left out.
func (d *Daemon) Descriptors() ([]string, error) {
	dir := filepath.Join("/proc", strconv.Itoa(d.Pid), "fd")
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var targets []string
	for _, e := range entries {
		target, err := os.Readlink(filepath.Join(dir, e.Name()))
		if err != nil {
			continue // closed since
		}
		kind, _, _ := strings.Cut(target, ":[")
		targets = append(targets, kind)
	}
	slices.Sort(targets)
	return targets, nil
}

// LogTail returns the end of carreld's log.
func (h *Host) LogTail() string { return string(tail(filepath.Join(h.Dir, "carreld.log"))) }
