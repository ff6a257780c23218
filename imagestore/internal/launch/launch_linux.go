// Package launch runs carrel-unpack for root: in namespaces of its own, with
// ids that are nobody else's, with no environment, and with exactly these
// descriptors:
//
//	0  the archive, a pipe
//	1  /dev/null
//	2  a pipe, of which the first bytes go to the log
//	3  the directory to fill: a detached mount in which the worker's ids
//	   appear as 0 to 65535, so that files are stored unshifted although the
//	   worker never is root (mount_setattr(2), Linux 5.12)
//	4  records of package wire, a pipe
//
// Nothing that is passed can be used to write anywhere else. The archive is
// passed as a pipe even if it is a file: an open file could be written to, or
// have its position moved.
package launch

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/carrel-sh/carrel/imagestore/internal/wire"
	"github.com/carrel-sh/carrel/internal/idmap"
)

// IDs is the number of ids a worker has, as a container has.
const IDs = 65536

// A Worker says what to run.
type Worker struct {
	Path    string   // of the program
	Args    []string // after the program's name
	FirstID uint32   // first of the host's ids that are the worker's
	Logger  *slog.Logger
	// Read is called with the number of bytes of the archive read so far,
	// from another goroutine; nil is not called.
	Read func(total int64)
}

// Run lets the worker fill the directory dir from the archive. It calls each
// for every record but the last. When it returns the worker is dead. If ctx is
// done a Read of the archive may still be in progress.
func (w Worker) Run(ctx context.Context, dir string, archive io.Reader, each func(wire.Record) error) (wire.Result, error) {
	// prctl(2), PR_SET_PDEATHSIG: the parent is the thread that forked, so
	// it must live as long as the worker.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	caller := ctx
	ctx, cancel := context.WithCancelCause(caller)
	defer cancel(nil)

	p, err := w.start(ctx, dir)
	if err != nil {
		return wire.Result{}, fmt.Errorf("start %q: %w", w.Path, err)
	}
	fed := make(chan error, 1)
	go func() {
		err := w.feed(p.archive, archive)
		if err != nil {
			cancel(err) // or the worker would take it for the end
		}
		p.archive.Close()
		fed <- err
	}()
	result, err := receive(p.records, each)
	// Whatever it said, it has no more to do. One that is exiting by itself
	// keeps its own exit status.
	p.kill()
	waitErr := p.wait()
	if err == nil && ctx.Err() != nil { // it was killed, whatever it had said
		err = context.Cause(ctx)
	}
	if err != nil {
		w.logStderr(p, waitErr)
		return wire.Result{}, firstCause(caller, ctx, err, waitErr)
	}
	// The worker says it is done; what it read must have been everything.
	select {
	case err = <-fed:
	case <-ctx.Done():
		err = context.Cause(ctx)
	}
	return result, err
}

// errFailed is a failure that the worker reported itself.
type errFailed struct{ text string }

func (e errFailed) Error() string { return e.text }

// firstCause says why it failed: because of the caller, because of the
// archive's reader, which ends ctx, because the worker said so, or because the
// worker died.
func firstCause(caller, ctx context.Context, err, waitErr error) error {
	var failed errFailed
	switch {
	case caller.Err() != nil: // the reader may have given up for that
		return context.Cause(caller)
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case errors.As(err, &failed):
		return err
	case errors.Is(err, io.ErrUnexpectedEOF) && waitErr != nil:
		return fmt.Errorf("carrel-unpack died: %w", waitErr)
	}
	return fmt.Errorf("carrel-unpack: %w", err)
}

// receive reads records until the last one.
func receive(r io.Reader, each func(wire.Record) error) (wire.Result, error) {
	dec := wire.NewDecoder(r)
	var last wire.Record
	for {
		rec, err := dec.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return wire.Result{}, err
		}
		if rec.Kind == wire.KindDone || rec.Kind == wire.KindFailed {
			last = rec
			continue
		}
		if err := each(rec); err != nil {
			return wire.Result{}, err
		}
	}
	if last.Kind == wire.KindFailed {
		return wire.Result{}, errFailed{printable(last.Text)}
	}
	return last.Result, nil
}

// printable replaces what could steer a terminal.
func printable(unsafeText string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r >= 0x7f && r < 0xa0 || r == '\u2028' || r == '\u2029' || r == '\ufffd' {
			return '?'
		}
		return r
	}, strings.ToValidUTF8(unsafeText, "?"))
}

// feed copies the archive to the worker. That the worker reads no more is its
// affair, and its records say why.
func (w Worker) feed(to io.Writer, archive io.Reader) error {
	var total int64
	buf := make([]byte, 128<<10)
	for {
		n, err := archive.Read(buf)
		if n > 0 {
			if _, err := to.Write(buf[:n]); err != nil {
				if errors.Is(err, unix.EPIPE) || errors.Is(err, os.ErrClosed) {
					return nil
				}
				return fmt.Errorf("write to carrel-unpack: %w", err)
			}
			if total += int64(n); w.Read != nil {
				w.Read(total)
			}
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read the archive: %w", err)
		}
	}
}

// process is a running worker.
type process struct {
	cmd     *exec.Cmd
	archive *os.File // write end
	records *os.File // read end
	stderr  *head
}

func (p *process) kill() { _ = p.cmd.Process.Kill() }

// dieWait is how long a killed worker may take to be gone. One that sleeps in
// the file system's code, or that had itself traced by its parent and left a
// thread nobody collects (ptrace(2)), is left alone then.
const dieWait = 30 * time.Second

// wait collects the killed worker.
func (p *process) wait() error {
	defer p.records.Close()
	gone := make(chan error, 1)
	go func() { gone <- p.cmd.Wait() }()
	select {
	case err := <-gone:
		return err
	case <-time.After(dieWait):
		return fmt.Errorf("process %d was killed and is still there", p.cmd.Process.Pid)
	}
}

// start starts the worker; it is killed when ctx is done.
func (w Worker) start(ctx context.Context, dir string) (*process, error) {
	program, err := openProgram(w.Path)
	if err != nil {
		return nil, err
	}
	defer program.Close()
	tree, err := w.cloneMount(dir)
	if err != nil {
		return nil, err
	}
	defer tree.Close()
	archiveRead, archiveWrite, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer archiveRead.Close()
	recordsRead, recordsWrite, err := os.Pipe()
	if err != nil {
		archiveWrite.Close()
		return nil, err
	}
	defer recordsWrite.Close()

	p := &process{archive: archiveWrite, records: recordsRead, stderr: new(head)}
	p.cmd = exec.CommandContext(ctx, fmt.Sprintf("/proc/self/fd/%d", program.Fd()), w.Args...)
	p.cmd.Args[0] = "carrel-unpack"
	p.cmd.Env = []string{}
	p.cmd.Dir = "/"
	p.cmd.Stdin = archiveRead
	p.cmd.Stderr = p.stderr
	p.cmd.ExtraFiles = []*os.File{tree, recordsWrite}
	p.cmd.SysProcAttr = w.attributes()
	p.cmd.WaitDelay = time.Second // for stderr, which the dead worker held
	err = p.cmd.Start()
	if err == nil {
		if err = w.checkIdentity(p.cmd.Process.Pid); err != nil {
			p.kill()
			_ = p.cmd.Wait()
		}
	}
	if err != nil {
		archiveWrite.Close()
		recordsRead.Close()
		return nil, err
	}
	return p, nil
}

// attributes are those of the new process. Without Credential it would keep
// the host's uid 0, only shown as unmapped.
func (w Worker) attributes() *syscall.SysProcAttr {
	ids := []syscall.SysProcIDMap{{ContainerID: 0, HostID: int(w.FirstID), Size: IDs}}
	return &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWUSER | unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWNET |
			unix.CLONE_NEWIPC | unix.CLONE_NEWUTS,
		UidMappings:                ids,
		GidMappings:                ids,
		GidMappingsEnableSetgroups: true, // to clear root's groups
		Credential:                 &syscall.Credential{Uid: 0, Gid: 0},
		Setsid:                     true,
		Pdeathsig:                  unix.SIGKILL,
	}
}

// lowestProgramFD keeps the program's descriptor away from those that the
// child arranges its own on.
const lowestProgramFD = 64

// openProgram opens the program so that it can be executed through the
// descriptor: the directories above it, such as root's home, may be closed to
// the worker.
func openProgram(path string) (*os.File, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() || info.Mode()&0o001 == 0 {
		return nil, fmt.Errorf("%v is not a program that everybody may execute: chmod 0755", info.Mode())
	}
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, lowestProgramFD)
	if err != nil {
		return nil, os.NewSyscallError("fcntl", err)
	}
	return os.NewFile(uintptr(fd), path), nil
}

// cloneMount returns dir as the worker gets it.
func (w Worker) cloneMount(dir string) (*os.File, error) {
	ids := []idmap.Map{{Inside: 0, Outside: w.FirstID, Size: IDs}}
	ns, err := idmap.Namespace(ids, ids)
	if err != nil {
		return nil, err
	}
	defer ns.Close()
	return idmap.Clone(dir, ns, unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NODEV|unix.MOUNT_ATTR_NOEXEC|unix.MOUNT_ATTR_NOSYMFOLLOW, false)
}

// checkIdentity makes sure, before a byte of the archive is passed, that the
// worker is who it should be (proc(5): real, effective, saved and file system
// id, as seen from here).
func (w Worker) checkIdentity(pid int) error {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return err
	}
	id := fmt.Sprint(w.FirstID)
	for _, key := range []string{"Uid:", "Gid:"} {
		want := strings.Join([]string{key, id, id, id, id}, "\t")
		if !strings.Contains(string(data), "\n"+want+"\n") {
			return fmt.Errorf("BUG: the worker does not have %q", want)
		}
	}
	if !strings.Contains(string(data), "\nGroups:\t \n") {
		return errors.New("BUG: the worker has supplementary groups")
	}
	return nil
}

// head keeps the first bytes written to it.
type head struct {
	mu  sync.Mutex // guards buf
	buf bytes.Buffer
}

const maxHead = 4096

func (h *head) Write(p []byte) (int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.buf.Write(p[:min(len(p), maxHead-h.buf.Len())])
	return len(p), nil
}

func (h *head) text() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.buf.String()
}

func (w Worker) logStderr(p *process, waitErr error) {
	if text := p.stderr.text(); text != "" && w.Logger != nil {
		w.Logger.Warn("carrel-unpack wrote an error", "stderr", text, "exit", waitErr)
	}
}
