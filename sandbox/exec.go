package sandbox

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/carrel-sh/carrel/sandbox/spec"
)

// A running is a carrel-runtime at work.
type running struct {
	verb      string
	ended     chan error      // of Wait
	ctx       context.Context //nolint:containedctx // it is the command's, for one call
	cancel    context.CancelFunc
	cmd       *exec.Cmd
	in        io.WriteCloser
	out, said bytes.Buffer
}

// startRuntime starts carrel-runtime. Its environment is empty, its descriptors
// are explicit and it has a mount namespace of its own, from which nothing
// propagates back. The caller must call wait.
func (m *Manager) startRuntime(ctx context.Context, verb string, log *os.File, files []*os.File) (*running, error) {
	r := &running{verb: verb}
	r.ctx, r.cancel = context.WithTimeout(ctx, m.cfg.startTime())
	cmd := exec.CommandContext(r.ctx, filepath.Join(m.cfg.LibexecDir, "carrel-runtime"), verb)
	cmd.Env = []string{}
	cmd.Dir = "/"
	cmd.Stdout = &r.out
	if cmd.Stderr = &r.said; log != nil {
		cmd.Stderr = log
	}
	cmd.ExtraFiles = files
	// It does not outlive this process: the next carreld removes what is left
	// of the container, and must not race with one that is still being made.
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: unix.CLONE_NEWNS, Setpgid: true, Pdeathsig: unix.SIGKILL}
	// What libcontainer forked is of its process group until it is in the
	// container's cgroup, and would be left when the deadline ends it alone.
	cmd.Cancel = func() error { return unix.Kill(-cmd.Process.Pid, unix.SIGKILL) }
	// The pipes of stdin and stdout may be held by what the runtime left.
	cmd.WaitDelay = time.Second
	r.cmd = cmd
	var err error
	if r.in, err = cmd.StdinPipe(); err == nil {
		err = r.start()
	}
	if err != nil {
		r.cancel()
		return nil, fmt.Errorf("carrel-runtime %s: %w", verb, err)
	}
	return r, nil
}

// start starts it on a thread that lives as long as it does: the parent whose
// death Pdeathsig means is a thread (PR_SET_PDEATHSIG in prctl(2)).
func (r *running) start() error {
	started := make(chan error)
	r.ended = make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := r.cmd.Start()
		started <- err
		if err == nil {
			r.ended <- r.cmd.Wait()
		}
	}()
	return <-started
}

// send gives it an order, or the rest of one. That it is gone by then, wait
// tells.
func (r *running) send(order any) { _ = json.NewEncoder(r.in).Encode(order) }

// wait returns its answer.
func (r *running) wait() ([]byte, error) {
	defer r.cancel()
	_ = r.in.Close()
	if err := <-r.ended; err != nil {
		switch {
		case r.ctx.Err() != nil:
			err = r.ctx.Err()
		case r.cmd.ProcessState.ExitCode() == spec.ExitNoSpace:
			err = unix.ENOSPC
		}
		return nil, fmt.Errorf("carrel-runtime %s: %w%s", r.verb, err, quoted(r.said.Bytes()))
	}
	return r.out.Bytes(), nil
}

// runtime runs carrel-runtime with an order and returns its answer.
func (m *Manager) runtime(ctx context.Context, verb string, order any, log *os.File, files []*os.File) ([]byte, error) {
	r, err := m.startRuntime(ctx, verb, log, files)
	if err != nil {
		return nil, err
	}
	r.send(order)
	return r.wait()
}
