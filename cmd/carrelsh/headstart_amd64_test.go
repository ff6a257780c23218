package main

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/creack/pty"
	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/carrel-sh/carrel/session"
)

// A daemon takes what carrelsh sends, answers every head start with Late, and
// refuses the request.
type daemon struct {
	program string // carrelsh that asks this daemon
	l       *net.UnixListener
}

func newDaemon(t *testing.T) *daemon {
	t.Helper()
	dir, err := os.MkdirTemp("", "headstart") // short: sun_path has 108 bytes
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	socket := filepath.Join(dir, "login.sock")
	d := &daemon{program: filepath.Join(dir, "carrelsh")}
	build := exec.Command("go", "build", "-buildvcs=false", "-o", d.program,
		"-ldflags", "-E main.headStart -X main.socketPath="+socket, ".")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	if d.l, err = net.ListenUnix("unixpacket", &net.UnixAddr{Name: socket, Net: "unixpacket"}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.l.Close() })
	if err := os.Chmod(socket, 0o666); err != nil {
		t.Fatal(err)
	}
	return d
}

// serve runs cmd and returns what it sent on its last connection.
func (d *daemon) serve(t *testing.T, cmd *exec.Cmd) (head *session.HeadStart, request *session.Request) {
	t.Helper()
	if cmd.SysProcAttr == nil || !cmd.SysProcAttr.Setctty {
		cmd.Stderr = new(bytes.Buffer)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	for request == nil {
		_ = d.l.SetDeadline(time.Now().Add(10 * time.Second))
		conn, err := d.l.AcceptUnix()
		if err != nil {
			t.Fatalf("no request from %q: %v, %v", cmd.Args, err, cmd.Stderr)
		}
		head, request = take(t, conn)
		conn.Close()
	}
	if err := <-ended; err == nil {
		t.Errorf("%q: no refusal", cmd.Args)
	}
	if status := cmd.ProcessState.ExitCode(); status != session.Refused.Status() {
		t.Errorf("%q: status %d; want the refusal's", cmd.Args, status)
	}
	return head, request
}

func take(t *testing.T, conn *net.UnixConn) (head *session.HeadStart, request *session.Request) {
	t.Helper()
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
	buf := make([]byte, session.MaxFrame)
	for {
		n, err := conn.Read(buf)
		if err != nil || n == 0 {
			return nil, nil // carrelsh started itself anew
		}
		if session.KindOf(buf[:n]) == session.KindHeadStart {
			if head, err = session.DecodeHeadStart(buf[:n]); err != nil {
				t.Fatalf("head start: %v\n%q", err, buf[:min(n, 200)])
			}
			_, _ = conn.Write(session.Late())
			continue
		}
		if request, err = session.DecodeRequest(buf[:n]); err != nil {
			t.Fatal(err)
		}
		_, _ = conn.Write((&session.Reply{Failure: session.Refused}).Encode())
		return head, request
	}
}

// What the daemon makes of a head start is what carrelsh itself would ask for.
func TestHeadStartSaysWhatCarrelshSays(t *testing.T) {
	d := newDaemon(t)
	random := rand.New(rand.NewChaCha8([32]byte{}))
	for i := range 60 {
		cmd := exec.Command(d.program)
		cmd.Args = []string{"-carrelsh"}
		if i > 0 {
			cmd.Args = []string{"carrelsh", "-c", text(random, i*i*15)}
		}
		for range i % 4 {
			cmd.Args = append(cmd.Args, text(random, 8))
		}
		cmd.Args = cmd.Args[:min(len(cmd.Args), 1+5*min(i, 1))]
		cmd.Env = []string{"TERM=xterm", "LANG=" + text(random, i%5), "X=" + text(random, 50), "=odd", "odd", ""}
		if i%3 == 0 {
			cmd.Env = append(cmd.Env, "SSH_AUTH_SOCK=/agent")
		}
		if i%5 == 0 {
			cmd.Env = nil
		}
		head, request := d.serve(t, cmd)
		if head == nil {
			t.Fatalf("no head start for %q, %q", cmd.Args, cmd.Env)
		}
		got, ok := head.Request()
		if !ok {
			if len(cmd.Args) > 2 && !strings.HasPrefix(cmd.Args[2], "/") {
				t.Errorf("head start of %q is Late", cmd.Args)
			}
			continue
		}
		if len(got.Command.Args) == 0 {
			got.Command.Args = nil
		}
		if diff := cmp.Diff(request, got); diff != "" {
			t.Errorf("%q (-carrelsh +head start):\n%s", cmd.Args, diff)
		}
	}
}

// text returns bytes that may stand in an argument.
func text(random *rand.Rand, size int) string {
	b := make([]byte, size)
	for i := range b {
		b[i] = byte(1 + random.IntN(255))
	}
	return string(b)
}

func TestHeadStartOfTerminal(t *testing.T) {
	d := newDaemon(t)
	for _, split := range []bool{false, true} {
		master, tty, err := pty.Open()
		if err != nil {
			t.Fatal(err)
		}
		if err := pty.Setsize(master, &pty.Winsize{Rows: 33, Cols: 111, X: 5, Y: 6}); err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command(d.program)
		cmd.Stdin, cmd.Stdout = tty, tty
		cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
		if !split {
			cmd.Stderr = tty
		}
		head, request := d.serve(t, cmd)
		if head == nil {
			t.Fatal("no head start")
		}
		got, ok := head.Request()
		if diff := cmp.Diff(request, got); !ok || diff != "" {
			t.Errorf("head start %v (-carrelsh +head start):\n%s", ok, diff)
		}
		if want := (session.Winsize{Rows: 33, Cols: 111, XPixel: 5, YPixel: 6}); request.Terminal.Size != want {
			t.Errorf("size = %v; want %v", request.Terminal.Size, want)
		}
		if request.Streams != (session.Streams{Tty: true, SplitStderr: split}) {
			t.Errorf("streams = %+v", request.Streams)
		}
		master.Close()
		tty.Close()
	}
}

// Where the first instructions must not or cannot tell, carrelsh does.
func TestNoHeadStart(t *testing.T) {
	d := newDaemon(t)
	sh := func(script string) *exec.Cmd { return exec.Command("/bin/sh", "-c", script, d.program) }
	plain := sh(`exec "$0" -c id`)
	if head, _ := d.serve(t, plain); head == nil {
		t.Fatal("no head start at all")
	}
	large := exec.Command(d.program, "-c", strings.Repeat("x", 70000))
	for name, cmd := range map[string]*exec.Cmd{
		"closed stdin":  sh(`exec "$0" -c id <&-`),
		"closed stdout": sh(`exec "$0" -c id >&-`),
		"closed all":    sh(`exec "$0" -c id <&- >&- 2>&-`),
		"large":         large,
	} {
		if head, request := d.serve(t, cmd); head != nil || request == nil {
			t.Errorf("%s: head start %v, request %v", name, head != nil, request != nil)
		}
	}
	// carrelsh starts itself anew without them, and then has a head start.
	runtime := exec.Command(d.program, "-c", "id")
	runtime.Env = []string{"GOGC=1", "TERM=a"}
	if head, _ := d.serve(t, runtime); head == nil || len(head.Env) != 1 {
		t.Errorf("head start after GOGC=1 = %+v", head)
	}
}

// A set-uid carrelsh does nothing before it refuses.
func TestNoHeadStartSetuid(t *testing.T) {
	if os.Getuid() != 0 {
		if os.Getenv("CARREL_TEST_ROOT") == "1" {
			t.Fatal("needs root")
		}
		t.Skip("needs root")
	}
	d := newDaemon(t)
	if err := os.Chmod(d.program, 0o755|os.ModeSetuid); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(d.program, "-c", "id")
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	_ = cmd.Run()
	if status := cmd.ProcessState.ExitCode(); status != session.Setuid.Status() {
		t.Errorf("status %d; want %d", status, session.Setuid.Status())
	}
	_ = d.l.SetDeadline(time.Now().Add(100 * time.Millisecond))
	if conn, err := d.l.AcceptUnix(); err == nil {
		conn.Close()
		t.Error("it connected")
	}
}

// An older daemon answers a kind that it does not know with Protocol.
func TestHeadStartToOlderDaemon(t *testing.T) {
	d := newDaemon(t)
	cmd := exec.Command(d.program, "-c", "id")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, session.MaxFrame)
	for i, answer := range []session.Failure{session.Protocol, session.Refused} {
		conn, err := d.l.AcceptUnix()
		if err != nil {
			t.Fatal(err)
		}
		n, err := conn.Read(buf)
		if want := []session.Kind{session.KindHeadStart, session.KindRequest}[i]; err != nil || session.KindOf(buf[:n]) != want {
			t.Errorf("frame %d is of kind %d, %v; want %d", i, session.KindOf(buf[:n]), err, want)
		}
		_, _ = conn.Write((&session.Reply{Failure: answer}).Encode())
		conn.Close()
	}
	_ = cmd.Wait()
	if status := cmd.ProcessState.ExitCode(); status != session.Refused.Status() {
		t.Errorf("status %d", status)
	}
}

// Nobody listens, or argv is empty: the ordinary message.
func TestHeadStartWithoutDaemon(t *testing.T) {
	d := newDaemon(t)
	d.l.Close()
	out, err := exec.Command(d.program, "-c", "id").CombinedOutput()
	if want := fmt.Sprintf("carrel: %s\n", session.NoDaemon.Sentence("")); err == nil || string(out) != want {
		t.Errorf("without a daemon: %q, %v; want %q", out, err, want)
	}
	// Linux 5.18 makes an empty argv one of an empty string.
	pid, err := syscall.ForkExec(d.program, nil, &syscall.ProcAttr{Files: []uintptr{0, 1, 2}})
	if err != nil {
		t.Fatal(err)
	}
	var status unix.WaitStatus
	if _, err := unix.Wait4(pid, &status, 0, nil); err != nil || !status.Exited() {
		t.Errorf("empty argv: %v, %v", status, err)
	}
}
