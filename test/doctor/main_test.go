package doctor

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/carrel-sh/carrel/internal/testneed"
	"github.com/carrel-sh/carrel/test/internal/host"
)

// inside marks the process in the machine.
const inside = "CARREL_TEST_MACHINE"

// A machine is what the tests share.
type machine struct {
	*host.Host
	// alice and bob have a private home. harry's is the host's. frank's shell is
	// bash, and his home is the host's; only a rule makes him a user of Carrel.
	// plain is none.
	alice, bob, harry, frank, plain host.Account
	place                           string // the machine's mount namespace
}

// shared is nil where the tests cannot run.
var shared *machine

func TestMain(m *testing.M) {
	switch {
	case os.Getenv(testneed.Env) != "1" || os.Geteuid() != 0:
		os.Exit(m.Run()) // each test skips or fails by itself
	case os.Getenv(inside) == "":
		os.Exit(enter())
	}
	scratch, err := mountMachine()
	if err != nil {
		fmt.Fprintln(os.Stderr, "test machine:", err)
		os.Exit(1)
	}
	code := host.Main("doctor", m.Run, furnish)
	if err := errors.Join(unix.Unmount(scratch, unix.MNT_DETACH), os.Remove(scratch)); err != nil {
		fmt.Fprintln(os.Stderr, "test machine:", err)
		code = max(code, 1)
	}
	os.Exit(code)
}

// enter runs this program again, in namespaces of its own, and returns its
// exit status.
func enter() int {
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), inside+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGTERM}
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return cmd.ProcessState.ExitCode()
}

func furnish(_ context.Context, h *host.Host) (err error) {
	m := &machine{Host: h}
	if m.place, err = os.Readlink("/proc/self/ns/mnt"); err != nil {
		return err
	}
	for _, a := range []struct {
		account       *host.Account
		suffix, shell string
	}{{&m.alice, "a", ""}, {&m.bob, "b", ""}, {&m.harry, "h", ""}, {&m.frank, "f", "/bin/bash"}, {&m.plain, "p", "/bin/bash"}} {
		if *a.account, err = h.Account(a.suffix, a.shell); err != nil {
			return err
		}
	}
	config := fmt.Sprintf("[[rule]]\nusers = [%q, %q]\nhome = \"host\"\n", m.harry.Name, m.frank.Name)
	_, err = h.Start(host.Options{Config: config})
	shared = m
	return err
}

// mountMachine covers the directories that the tests change by copies in
// memory, and returns where these are.
func mountMachine() (scratch string, err error) {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return "", os.NewSyscallError("mount", err)
	}
	dir, err := os.MkdirTemp("/var/tmp", "carrel-machine-")
	if err != nil {
		return "", err
	}
	scratch = dir
	defer func() {
		if err != nil {
			_ = unix.Unmount(dir, unix.MNT_DETACH)
			os.Remove(dir)
		}
	}()
	if err := unix.Mount("scratch", scratch, "tmpfs", 0, "mode=755"); err != nil {
		return "", os.NewSyscallError("mount", err)
	}
	for _, dir := range []string{"/etc", "/var/spool", "/var/lib/systemd", "/var/lib/exim4", "/var/log", "/var/mail"} {
		copied := filepath.Join(scratch, strings.ReplaceAll(dir, "/", "_"))
		if err := copyTree(dir, copied); err != nil {
			return "", err
		}
		if err := unix.Mount(copied, dir, "", unix.MS_BIND, ""); err != nil {
			return "", &os.PathError{Op: "mount", Path: dir, Err: err}
		}
	}
	for _, dir := range []string{"/run", "/home"} {
		if err := unix.Mount("machine", dir, "tmpfs", 0, "mode=755"); err != nil {
			return "", &os.PathError{Op: "mount", Path: dir, Err: err}
		}
	}
	if out, err := exec.Command("ip", "link", "set", "lo", "up").CombinedOutput(); err != nil {
		return "", fmt.Errorf("ip link: %w: %s", err, out)
	}
	if err := os.Mkdir("/run/sshd", 0o755); err != nil {
		return "", err
	}
	return scratch, errors.Join(forget(), ownIDs())
}

// forget removes the accounts of other people's tests, which are Carrel's too:
// their processes are real.
func forget() error {
	const passwd = "/etc/passwd"
	text, err := os.ReadFile(passwd)
	if err != nil {
		return err
	}
	var kept []string
	for line := range strings.Lines(string(text)) {
		if !strings.HasSuffix(line, "/carrelsh\n") {
			kept = append(kept, line)
		}
	}
	return os.WriteFile(passwd, []byte(strings.Join(kept, "")), 0o644)
}

// copyTree copies a directory that others may change meanwhile: their useradd
// makes lock files and removes them.
func copyTree(from, to string) error {
	var out []byte
	for range 20 {
		var err error
		if out, err = exec.Command("cp", "-a", from, to).CombinedOutput(); err == nil {
			locks, err := filepath.Glob(to + "/*.lock")
			for _, lock := range locks {
				err = errors.Join(err, os.Remove(lock))
			}
			return err
		}
		if err := os.RemoveAll(to); err != nil {
			return err
		}
	}
	return fmt.Errorf("copy %s: %s", from, out)
}

// ownIDs makes useradd(8) choose uids that no other account of the real
// machine has, for the processes are not apart.
func ownIDs() error {
	const defs = "/etc/login.defs"
	text, err := os.ReadFile(defs)
	if err != nil {
		return err
	}
	first := 50000 + os.Getpid()%10000
	more := fmt.Sprintf("UID_MIN %d\nUID_MAX %d\nGID_MIN %[1]d\nGID_MAX %d\nSUB_UID_COUNT 0\nSUB_GID_COUNT 0\n", first, first+100)
	var kept []string
	for line := range strings.Lines(string(text)) {
		if !strings.HasPrefix(line, "UID_M") && !strings.HasPrefix(line, "GID_M") && !strings.HasPrefix(line, "SUB_") {
			kept = append(kept, line)
		}
	}
	return os.WriteFile(defs, []byte(strings.Join(kept, "")+more), 0o644)
}

// setup returns the machine for one test, which may change /etc as it likes:
// it gets a layer of its own that goes with the test.
func setup(t *testing.T) *machine {
	t.Helper()
	testneed.Root(t)
	if shared == nil {
		t.Fatal("BUG: no machine")
	}
	layer, err := os.MkdirTemp("/run", "layer-")
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("layer", layer, "tmpfs", 0, "mode=755"); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{"upper", "work"} {
		if err := os.Mkdir(filepath.Join(layer, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	options := fmt.Sprintf("lowerdir=/etc,upperdir=%[1]s/upper,workdir=%[1]s/work", layer)
	if err := unix.Mount("etc", "/etc", "overlay", 0, options); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for _, dir := range []string{"/etc", layer} {
			if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
				t.Errorf("unmount %s: %v", dir, err)
			}
		}
		if t.Failed() {
			t.Logf("carreld's log ends:\n%s", shared.LogTail())
		}
	})
	return shared
}

// write makes a file of the machine with that text, owned by root. What is
// not below /etc is removed after the test.
func write(t *testing.T, path, text string, mode os.FileMode) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), mode); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, mode); err != nil { // whatever the umask
		t.Fatal(err)
	}
	if !strings.HasPrefix(path, "/etc/") {
		t.Cleanup(func() { os.Remove(path) })
	}
}

// shell runs a command as root on the machine; it must succeed.
func shell(t *testing.T, command string) string {
	t.Helper()
	r := host.Run(exec.Command("/bin/bash", "-c", command))
	if r.Code != 0 || r.Err != nil {
		t.Fatalf("%s: %v", command, r)
	}
	return r.Stdout
}
