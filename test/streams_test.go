package test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/carrel-sh/carrel/test/internal/host"
)

// TestOneFile: stdout and stderr in one file, not appended to, lose nothing.
func TestOneFile(t *testing.T) {
	f := setup(t)
	const lines = 3000
	for _, way := range []string{"direct", "bash"} { // the twin: what the host's own shell does
		out, err := os.Create(filepath.Join(t.TempDir(), "out"))
		if err != nil {
			t.Fatal(err)
		}
		defer out.Close()
		const command = `x=$(head -c 1000 /dev/zero | tr '\0' x); (i=0; while [ $((i+=1)) -le 3000 ]; do echo "$x"; done) & i=0; while [ $((i+=1)) -le 3000 ]; do echo "$x"; done >&2; wait`
		cmd := exec.Command("bash", "-c", command)
		if way == "direct" {
			cmd = f.Direct(f.alice, "-c", command)
		}
		cmd.Stdout, cmd.Stderr = out, out
		if err := cmd.Run(); err != nil {
			t.Errorf("%s: %v", way, err)
		}
		if info, err := out.Stat(); err != nil || info.Size() != 2*lines*1001 {
			t.Errorf("%s: %d bytes in the file, %v; want %d", way, info.Size(), err, 2*lines*1001)
		}
	}
}

// TestBackgroundTrickle: a background process that goes on writing, a little at
// a time or much, does not keep a session whose command has ended, and what that
// has written arrives.
func TestBackgroundTrickle(t *testing.T) {
	f := setup(t)
	for name, write := range map[string]string{
		"little": "echo tick; sleep 0.05", "much": "head -c 30000 /dev/zero; sleep 0.01",
	} {
		r := f.In(f.alice, "(while :; do "+write+"; done) & head -c 50000 /dev/zero | tr '\\0' m; exit 4", nil)
		if r.Code != 4 || r.Err != nil || strings.Count(r.Stdout, "m") != 50000 {
			t.Errorf("%s: exit %d, %v, %d of the command's own 50000 bytes; want 4", name, r.Code, r.Err, strings.Count(r.Stdout, "m"))
		}
	}
	f.empty(t)
}

// TestSignalsStayIgnored: what carrelsh was started with as ignored, as by nohup(1),
// is not passed on.
func TestSignalsStayIgnored(t *testing.T) {
	f := setup(t)
	for _, tt := range []struct {
		ignore string
		send   syscall.Signal
		want   string
		ended  syscall.Signal
	}{
		{"--ignore-signal=HUP", syscall.SIGHUP, "begun\ndone\n", 0},
		{"--ignore-signal=INT", syscall.SIGINT, "begun\ndone\n", 0},
		{"--ignore-signal=INT", syscall.SIGQUIT, "begun\ndone\n", 0},
		{"--ignore-signal=USR1", syscall.SIGHUP, "begun\n", syscall.SIGHUP}, // the twins
		{"--ignore-signal=USR1", syscall.SIGINT, "begun\n", syscall.SIGINT},
	} {
		direct := f.Direct(f.alice, "-c", "sleep 0.3; echo begun; read -r line; echo done")
		cmd := exec.Command("env", append([]string{tt.ignore}, direct.Args...)...)
		cmd.Env, cmd.Dir, cmd.SysProcAttr = direct.Env, direct.Dir, direct.SysProcAttr
		in, err := cmd.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		out := &signalled{then: func() {
			if err := cmd.Process.Signal(tt.send); err != nil {
				t.Error(err)
			}
			time.Sleep(300 * time.Millisecond) // that it has its effect, if any
			in.Close()
		}}
		cmd.Stdout = out
		r := host.Run(cmd)
		if out.String() != tt.want || r.Signal != tt.ended || r.Err != nil {
			t.Errorf("%s, %v: %q, %v; want %q, signal %d", tt.ignore, tt.send, out.String(), r, tt.want, tt.ended)
		}
	}
}

// signalled is a writer that calls then when it has "begun".
type signalled struct {
	said strings.Builder
	then func()
}

func (s *signalled) String() string { return s.said.String() }

func (s *signalled) Write(b []byte) (int, error) {
	n, err := s.said.Write(b)
	if s.String() == "begun\n" {
		go s.then()
	}
	return n, err
}

// TestOneStdin: of two sessions that share their caller's standard input one
// takes what comes. The other ends when its command does, whatever it waits for.
func TestOneStdin(t *testing.T) {
	f := setup(t)
	for range 20 {
		in, source, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		ended := make(chan host.Result)
		for range 2 {
			cmd := f.Direct(f.alice, "-c", "sleep 0.1")
			cmd.Stdin = in
			go func() { ended <- host.Run(cmd) }()
		}
		time.Sleep(50 * time.Millisecond) // both poll
		_, _ = source.WriteString("x")
		for range 2 {
			if r := <-ended; r.Code != 0 || r.Err != nil {
				t.Fatal(r)
			}
		}
		in.Close()
		source.Close()
	}
}
