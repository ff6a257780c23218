package host

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// patience bounds every wait of this package. It is long because it only
// matters when something is broken: no test asserts on time.
const patience = 30 * time.Second

// A Host is one private installation of Carrel. Its methods are not safe for
// concurrent use unless they say so.
type Host struct {
	Dir      string // of everything below; mode 0711, owned by root
	Prefix   string // what `make install` was given
	RunDir   string // carreld's sockets; compiled into carrelsh
	StateDir string // carreld's state; Start may be told another
	Cgroup   string // parent of all containers' cgroups, absolute in each hierarchy

	name     string
	state    string // the directory that the daemon was started with last
	accounts []Account
	daemon   *Daemon
	sshd     *SSHD
}

// New builds the tree that the working directory is part of and installs it.
// kind becomes part of every name that other people of the machine may see.
func New(ctx context.Context, kind string) (*Host, error) {
	if os.Geteuid() != 0 {
		return nil, errors.New("a private host needs root")
	}
	root, err := moduleRoot()
	if err != nil {
		return nil, err
	}
	id := kind + "-" + strconv.Itoa(os.Getpid())
	// Not /tmp: where that is a tmpfs, older kernels cannot id-map it.
	dir, err := os.MkdirTemp("/var/tmp", "carrel-"+id+"-")
	if err != nil {
		return nil, err
	}
	h := &Host{
		Dir:      dir,
		state:    filepath.Join(dir, "state"),
		Prefix:   filepath.Join(dir, "usr"),
		RunDir:   filepath.Join(dir, "run"),
		StateDir: filepath.Join(dir, "state"),
		Cgroup:   "/carrel-" + id,
		name:     id,
	}
	if err := h.install(ctx, root); err != nil {
		return nil, errors.Join(err, h.Close())
	}
	return h, nil
}

func (h *Host) install(ctx context.Context, root string) error {
	// Users must be able to reach the binaries, and to list nothing.
	if err := os.Chmod(h.Dir, 0o711); err != nil {
		return err
	}
	return h.make(ctx, root, "BIN="+filepath.Join(h.Dir, "build"), "DESTDIR=")
}

// Next puts the release that speaks the next version of the protocol in the
// place of the installed one, as an upgrade does: the paths are the same, and
// what runs goes on. The function that it returns goes back.
func (h *Host) Next(ctx context.Context) (back func() error, err error) {
	root, err := moduleRoot()
	if err != nil {
		return nil, err
	}
	next := filepath.Join(h.Dir, "next")
	if err := h.make(ctx, root, "BIN="+filepath.Join(h.Dir, "build-next"), "DESTDIR="+next, "TAGS=nextprotocol"); err != nil {
		return nil, err
	}
	swap := func() error {
		return os.NewSyscallError("renameat2", unix.Renameat2(
			unix.AT_FDCWD, filepath.Join(next, h.Prefix), unix.AT_FDCWD, h.Prefix, unix.RENAME_EXCHANGE))
	}
	return swap, swap()
}

func (h *Host) make(ctx context.Context, root string, args ...string) error {
	args = append([]string{"--no-print-directory", "-s", "-C", root, "install", "PREFIX=" + h.Prefix, "RUNDIR=" + h.RunDir}, args...)
	cmd := exec.CommandContext(ctx, "make", args...)
	// make is often our grandparent: what it told its children is not for this one.
	cmd.Env = without(os.Environ(), "MAKEFLAGS", "MFLAGS", "MAKELEVEL", "CMD")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("make install: %w\n%s", err, out)
	}
	return nil
}

// Path returns where a binary of Carrel was installed.
func (h *Host) Path(binary string) string {
	switch binary {
	case "carreld":
		return filepath.Join(h.Prefix, "sbin", binary)
	case "carrel-runtime", "carrel-init", "carrel-unpack":
		return filepath.Join(h.Libexec(), binary)
	}
	return filepath.Join(h.Prefix, "bin", binary)
}

// Libexec returns the directory of the binaries that people do not call.
func (h *Host) Libexec() string { return filepath.Join(h.Prefix, "libexec", "carrel") }

// Socket returns the path that carrelsh connects to.
func (h *Host) Socket() string { return filepath.Join(h.RunDir, "login.sock") }

// Carrel runs carrel(1), as root, against this host.
func (h *Host) Carrel(args ...string) Result { return Run(h.CarrelCommand(args...)) }

// CarrelCommand returns that command, ready to run.
func (h *Host) CarrelCommand(args ...string) *exec.Cmd {
	private := []string{"--run-dir", h.RunDir, "--state-dir", h.state, "--config", h.config()}
	return exec.Command(h.Path("carrel"), append(private, args...)...)
}

// config returns the path of carreld's configuration.
func (h *Host) config() string { return filepath.Join(h.Dir, "carrel.toml") }

// Close ends and removes everything of this host. It goes on after a failure
// and returns all of them. It may be called twice.
func (h *Host) Close() error {
	var errs []error
	if h.sshd != nil {
		errs = append(errs, h.sshd.Close())
		h.sshd = nil
	}
	if h.daemon != nil && h.daemon.Running() {
		if r := h.Carrel("stop", "--all"); r.Code != 0 {
			errs = append(errs, fmt.Errorf("carrel stop --all: %v", r))
		}
	}
	errs = append(errs, h.Stop())
	for _, a := range h.accounts {
		errs = append(errs, a.remove())
	}
	h.accounts = nil
	errs = append(errs, RemoveCgroup(h.Cgroup))
	errs = append(errs, unmountBelow(h.Dir))
	errs = append(errs, os.RemoveAll(h.Dir))
	return errors.Join(errs...)
}

// moduleRoot returns the nearest directory upwards that holds go.mod.
func moduleRoot() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for ; ; dir = filepath.Dir(dir) {
		_, err := os.Stat(filepath.Join(dir, "go.mod"))
		if err == nil {
			return dir, nil
		}
		if !errors.Is(err, fs.ErrNotExist) || dir == "/" {
			return "", fmt.Errorf("find go.mod upwards: %w", err)
		}
	}
}

// without returns env less the named variables.
func without(env []string, names ...string) []string {
	var kept []string
next:
	for _, entry := range env {
		for _, name := range names {
			if len(entry) > len(name) && entry[:len(name)] == name && entry[len(name)] == '=' {
				continue next
			}
		}
		kept = append(kept, entry)
	}
	return kept
}

// eventually polls ok until it is true or patience ends.
func eventually(ok func() bool) bool {
	for end := time.Now().Add(patience); ; time.Sleep(5 * time.Millisecond) {
		if ok() {
			return true
		}
		if time.Now().After(end) {
			return false
		}
	}
}

// tail returns the last lines of a log for an error message.
func tail(path string) []byte {
	log, err := os.ReadFile(path)
	if err != nil {
		return []byte(err.Error())
	}
	if len(log) > 4096 {
		log = log[len(log)-4096:]
	}
	return bytes.TrimSpace(log)
}
