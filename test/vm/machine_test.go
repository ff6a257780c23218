//go:build vm

package vm

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/carrel-sh/carrel/internal/testneed"
	"github.com/carrel-sh/carrel/test/internal/host"
)

// A machine is a running virtual machine.
type machine struct {
	dir     string // of keys, logs and sockets
	port    int    // of 127.0.0.1, forwarded to its port 22
	console string // file of what it says on its serial line
	ended   chan struct{}
	err     error     // why QEMU ended; valid when ended is closed
	master  *exec.Cmd // the connection that root's commands share, or nil
	before  string    // snapshot of the machine as it was made
}

// image returns the directory of a disk, kernel and initrd of a release of
// Debian.
func image(t *testing.T, suite string) string {
	t.Helper()
	for _, tool := range []string{"mke2fs", "cpio", "xz", "make", "ssh", "ssh-keygen", "sftp", "rsync"} {
		testneed.Tool(t, tool)
	}
	return made(t, "vm-"+suite, "./image", suite)
}

// qemu returns how to call QEMU.
func qemu(t *testing.T) []string {
	t.Helper()
	dir := made(t, "qemu", "./qemu")
	lib := filepath.Join(dir, "usr/lib/x86_64-linux-gnu")
	return []string{filepath.Join(lib, "ld-linux-x86-64.so.2"), "--library-path", lib, filepath.Join(dir, "usr/bin/qemu-system-x86_64"),
		"-L", filepath.Join(dir, "usr/share/qemu"), "-L", filepath.Join(dir, "usr/share/seabios")}
}

// made returns the directory that a script makes of Debian's packages. It is
// kept for a week, unless the script or the list of packages changes.
func made(t *testing.T, name, script string, args ...string) string {
	t.Helper()
	testneed.Tool(t, "mmdebstrap")
	sum := sha256.New()
	for _, file := range []string{script, "packages.txt"} {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		sum.Write(text)
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	stem := filepath.Join(cache, "carrel-test", name+"-")
	dir := fmt.Sprintf("%s%x", stem, sum.Sum(nil)[:8])
	mark := dir + ".made"
	if info, err := os.Stat(mark); err == nil && time.Since(info.ModTime()) < 7*24*time.Hour {
		return dir
	}
	if old, err := filepath.Glob(stem + "*"); err == nil {
		for _, o := range old {
			os.RemoveAll(o)
		}
	}
	begin := time.Now()
	run(t, script, append([]string{dir}, args...)...)
	if err := os.WriteFile(mark, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	t.Logf("made %s in %v", dir, time.Since(begin).Round(time.Second))
	return dir
}

// boot starts a machine with what is in seed on a second disk, /seed. Its
// kernel gets more on its command line.
func boot(t *testing.T, image, seed, more string) *machine {
	t.Helper()
	m := &machine{dir: t.TempDir(), ended: make(chan struct{})}
	m.console = filepath.Join(m.dir, "console")
	run(t, "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", filepath.Join(m.dir, "key"))
	run(t, "cp", filepath.Join(m.dir, "key.pub"), filepath.Join(seed, "authorized_keys"))
	disk := filepath.Join(m.dir, "seed")
	run(t, "truncate", "-s", "128M", disk)
	run(t, "mke2fs", "-q", "-t", "ext4", "-d", seed, disk)
	m.port = freePort(t)
	ctx, cancel := context.WithCancel(t.Context())
	program := qemu(t)
	cmd := exec.CommandContext(ctx, program[0], append(program[1:], "-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", "2048",
		"-nodefaults", "-nographic", "-serial", "file:"+m.console, "-device", "virtio-rng-pci",
		"-kernel", filepath.Join(image, "vmlinuz"), "-initrd", filepath.Join(image, "initrd"),
		"-append", "console=ttyS0 quiet panic=5 "+more,
		"-drive", "file="+filepath.Join(image, "disk")+",format=raw,if=virtio,snapshot=on,cache=unsafe",
		"-drive", "file="+disk+",format=raw,if=virtio,readonly=on",
		// The machine reaches nobody; it is reached through one port.
		"-nic", fmt.Sprintf("user,model=virtio-net-pci,restrict=on,hostfwd=tcp:127.0.0.1:%d-:22", m.port))...)
	// The snapshot is a file without a name in TMPDIR, of gigabytes at worst.
	cmd.Env = append(os.Environ(), "TMPDIR=/var/tmp")
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	started := make(chan error)
	go func() {
		// The signal comes when the thread that forked ends, prctl(2).
		runtime.LockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			err = cmd.Wait()
		}
		m.err = fmt.Errorf("QEMU: %w: %s", err, said.Bytes())
		close(m.ended)
	}()
	if err := <-started; err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			text, _ := os.ReadFile(m.console)
			t.Logf("the machine said:\n%s", text)
		}
		m.disconnect()
		cancel()
		<-m.ended
	})
	return m
}

func freePort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

// options are what every client of OpenSSH needs to reach the machine.
func (m *machine) options() []string {
	return []string{"-F", "/dev/null", "-i", filepath.Join(m.dir, "key"), "-o", "IdentitiesOnly=yes", "-o", "BatchMode=yes", "-o", "LogLevel=ERROR",
		"-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "ConnectTimeout=60", "-o", fmt.Sprintf("Port=%d", m.port)}
}

// ssh is a client of OpenSSH's, as user, with options before the host and the
// command after it. Root's share one connection, since root only looks on; each
// of a user's is a login of its own.
func (m *machine) ssh(user, command string, options ...string) *exec.Cmd {
	args := append(m.options(), options...)
	if user == "root" {
		args = append(args, "-o", "ControlPath="+m.control())
	}
	args = append(args, user+"@127.0.0.1")
	if command != "" {
		args = append(args, command)
	}
	return exec.Command("ssh", args...)
}

func (m *machine) control() string { return filepath.Join(m.dir, "root") }

// as runs a command in a login of user's.
func (m *machine) as(user, command string, options ...string) host.Result {
	return do(m.ssh(user, command, options...))
}

// do is host.Run with the patience that an emulated processor takes.
func do(cmd *exec.Cmd) host.Result { return doWithin(cmd, 3*time.Minute) }

func doWithin(cmd *exec.Cmd, patience time.Duration) host.Result {
	var stdout, stderr bytes.Buffer
	if cmd.Stdout == nil {
		cmd.Stdout = &stdout
	}
	cmd.Stderr = &stderr
	cmd.WaitDelay = time.Second
	if err := cmd.Start(); err != nil {
		return host.Result{Code: -1, Err: err}
	}
	alarm := time.AfterFunc(patience, func() { _ = cmd.Process.Kill() })
	err := cmd.Wait()
	r := host.Result{Stdout: stdout.String(), Stderr: stderr.String(), Code: cmd.ProcessState.ExitCode()}
	if status, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		r.Signal = status.Signal()
	}
	if exit := (*exec.ExitError)(nil); !alarm.Stop() || err != nil && !errors.As(err, &exit) {
		r.Err = fmt.Errorf("%s did not end: %w", cmd.Path, err)
	}
	return r
}

// root runs a shell script as root, which must succeed, and returns what it
// wrote less the last newline.
func (m *machine) root(t *testing.T, script string) string {
	t.Helper()
	// Not bash's own input: what the script starts would read the rest of it.
	cmd := m.ssh("root", "s=$(mktemp) && cat >$s && bash -e $s </dev/null")
	cmd.Stdin = strings.NewReader(script)
	r := do(cmd)
	if r.Code != 0 || r.Err != nil {
		t.Fatalf("root: %s: %v\n%s%s", script, r, r.Stdout, r.Stderr)
	}
	return strings.TrimSuffix(r.Stdout, "\n")
}

// up waits until root can log in and the machine is done with booting.
func (m *machine) up(t *testing.T, patience time.Duration) {
	t.Helper()
	begin := time.Now()
	ok := until(patience, func() bool {
		select {
		case <-m.ended:
			t.Fatal(m.err)
		default:
		}
		return doWithin(m.ssh("root", "systemctl is-system-running --wait"), time.Minute).Code == 0
	})
	if !ok {
		t.Fatalf("not up after %v: %v", patience, m.as("root", "systemctl --failed"))
	}
	m.master = m.ssh("root", "", "-N", "-M")
	if err := m.master.Start(); err != nil {
		t.Fatal(err)
	}
	if !until(time.Minute, func() bool { _, err := os.Stat(m.control()); return err == nil }) {
		t.Fatal("no shared connection")
	}
	t.Logf("up after %v", time.Since(begin).Round(time.Second))
}

// disconnect ends the shared connection, if there is one.
func (m *machine) disconnect() {
	if m.master != nil {
		_ = m.master.Process.Kill()
		_ = m.master.Wait()
		m.master = nil
		os.Remove(m.control())
	}
}

// reboot has the machine start anew, by how, and waits.
func (m *machine) reboot(t *testing.T, how string) {
	t.Helper()
	const id = "cat /proc/sys/kernel/random/boot_id"
	before := m.root(t, id)
	m.root(t, "nohup sh -c 'sleep 1; "+how+"' >/dev/null 2>&1 </dev/null &")
	m.disconnect()
	ok := until(3*time.Minute, func() bool {
		// A connection to a machine that starts anew hangs for ever.
		r := doWithin(m.ssh("root", id), 20*time.Second)
		return r.Code == 0 && strings.TrimSpace(r.Stdout) != before
	})
	if !ok {
		t.Fatalf("no other boot after %q", how)
	}
	m.up(t, 4*time.Minute)
}

// until asks ok again for as long as patience.
func until(patience time.Duration, ok func() bool) bool {
	for end := time.Now().Add(patience); !ok(); time.Sleep(500 * time.Millisecond) {
		if time.Now().After(end) {
			return false
		}
	}
	return true
}

func run(t *testing.T, name string, args ...string) {
	t.Helper()
	if out, err := exec.CommandContext(t.Context(), name, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s %q: %v\n%s", name, args, err, out)
	}
}
