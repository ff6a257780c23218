package fidelity

import (
	"archive/tar"
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/carrel-sh/carrel/test/internal/host"
)

var streamRows = []row{
	{"stdout and stderr are separate", everywhere, separate},
	{"binary clean in both directions", everywhere, binary},
	{"half-close (tar \\| ssh 'tar x; echo done')", everywhere, halfClose},
	{"yes \\| head -1 ends", atMain, yesHead},
	{"a big stream out, with flat memory", atMain, bigOut},
	{"a big stream in, with flat memory", atMain, bigIn},
	{"the command is one opaque string", atMain, opaque},
	{"a script on stdin of a login without terminal", atMain, scriptOnStdin},
	{"not a byte of ours on stdout and stderr, even cold", atMain, noNoise},
}

func separate(s *scene) error {
	r := s.run("echo out; echo err >&2; echo out2")
	if r.Stdout != "out\nout2\n" || !strings.HasSuffix(r.Stderr, "err\n") { // clients speak there, too
		return fmt.Errorf("%v", r)
	}
	if s.native() && r.Stderr != "err\n" {
		return fmt.Errorf("%v", r)
	}
	return s.same("echo out; echo err >&2; exit 3")
}

func binary(s *scene) error {
	data := make([]byte, 300<<10)
	_, _ = rand.NewChaCha8([32]byte{7}).Read(data)
	for i := range 256 {
		data[i] = byte(i)
	}
	r := s.runs(s.visit(false, "cat"), bytes.NewReader(data))
	if r.Code != 0 || r.Err != nil || r.Stdout != string(data) {
		return fmt.Errorf("%d of %d bytes came back, equal %v, %v", len(r.Stdout), len(data), r.Stdout == string(data), r)
	}
	return nil
}

func halfClose(s *scene) error {
	var archive bytes.Buffer
	w := tar.NewWriter(&archive)
	big := 3 << 20
	if !s.native() {
		big = 1 << 20
	}
	for name, size := range map[string]int{"one": 5, "big": big} {
		if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(size)}); err != nil {
			return err
		}
		if _, err := w.Write(bytes.Repeat([]byte("x"), size)); err != nil {
			return err
		}
	}
	if err := w.Close(); err != nil {
		return err
	}
	const command = "d=$(mktemp -d) && cd $d && tar x; cat one; wc -c <big; echo done; rm -r $d; exit 5"
	return s.sameWith(command, archive.String())
}

func yesHead(s *scene) error {
	end := func(v visit) (host.Result, error) {
		read, write, err := os.Pipe()
		if err != nil {
			return host.Result{}, err
		}
		defer read.Close()
		cmd := s.open(v)
		cmd.Stdout = write
		var r host.Result
		var wg sync.WaitGroup
		wg.Go(func() {
			defer write.Close()
			r = host.Run(cmd)
		})
		line, err := bufio.NewReader(io.LimitReader(read, 2)).ReadString('\n')
		read.Close()
		wg.Wait()
		if line != "y\n" || err != nil {
			return r, fmt.Errorf("first line %q, %w", line, err)
		}
		return r, r.Err
	}
	got, err := end(s.visit(false, "yes"))
	if err != nil {
		return err
	}
	want, err := end(s.visit(true, "yes"))
	if err != nil {
		return err
	}
	if got.Code != want.Code || got.Signal != want.Signal {
		return fmt.Errorf("ended with %v; the plain account: %v", got, want)
	}
	if !eventually(func() bool { return s.in("pgrep -cx yes") == "0" }) {
		return errors.New("yes runs on inside")
	}
	return nil
}

// long asks for what takes longer than `make test` may.
func long() bool { return os.Getenv("CARREL_LONG") == "1" }

// bigSize is a big stream's. There is no limit to how long it takes.
func (s *scene) bigSize() int64 {
	switch {
	case long():
		return 10 << 30
	case s.client == goCrypto: // of which each byte costs more
		return 64 << 20
	}
	return 512 << 20
}

// flat is the memory that a relay of any size may take, in KiB.
const flat = 48 << 10

func bigOut(s *scene) error {
	cmd := s.open(s.visit(false, fmt.Sprintf("head -c %d /dev/zero; exit 6", s.bigSize())))
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	n, err := io.Copy(io.Discard, io.LimitReader(out, s.bigSize()/2))
	if err != nil {
		return err
	}
	memory := s.relayMemory() // while everything still runs
	rest, err := io.Copy(io.Discard, out)
	_ = cmd.Wait()
	if err != nil || n+rest != s.bigSize() || cmd.ProcessState.ExitCode() != 6 {
		return fmt.Errorf("%d of %d bytes, %w, %v", n+rest, s.bigSize(), err, cmd.ProcessState)
	}
	return memory
}

func bigIn(s *scene) error {
	cmd := s.open(s.visit(false, "wc -c; exit 6"))
	in, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	var out bytes.Buffer
	cmd.Stdout = &out
	if err := cmd.Start(); err != nil {
		return err
	}
	_, err = io.CopyN(in, zeros{}, s.bigSize())
	memory := s.relayMemory()
	in.Close()
	_ = cmd.Wait()
	if err != nil || cmd.ProcessState.ExitCode() != 6 || strings.TrimSpace(out.String()) != strconv.FormatInt(s.bigSize(), 10) {
		return fmt.Errorf("%q, %v, %w; want %d bytes", out.String(), cmd.ProcessState, err, s.bigSize())
	}
	return memory
}

type zeros struct{}

func (zeros) Read(b []byte) (int, error) {
	clear(b)
	return len(b), nil
}

// relayMemory says if what relays the user's session has grown.
func (s *scene) relayMemory() error {
	all, err := host.Processes()
	if err != nil {
		return err
	}
	seen := false
	for _, p := range all {
		ours := p.Exe == s.Path("carrelsh") && p.UID == s.user.UID
		if !ours && p.Exe != s.Path("carrel-init") && p.Exe != s.Path("carreld") {
			continue
		}
		seen = seen || ours
		if peak := peakKiB(p.Pid); peak > flat {
			return fmt.Errorf("%s took %d KiB; at most %d are flat", p.Exe, peak, flat)
		}
	}
	if !seen {
		return errors.New("no carrelsh runs")
	}
	return nil
}

// peakKiB is the largest resident memory that the process ever had.
func peakKiB(pid int) int {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0
	}
	_, after, _ := strings.Cut(string(status), "VmHWM:")
	fields := strings.Fields(after)
	if len(fields) == 0 {
		return 0
	}
	n, _ := strconv.Atoi(fields[0])
	return n
}

func opaque(s *scene) error {
	commands := []string{
		`printf '%s|' "a b" 'c"d' e\ f $'g\nh' "$((1+1))" '$HOME' ` + "`echo i`",
		"echo one\n\n# a comment\necho two\ncat <<'E'\n$three 'E\nE\n",
		"printf %s '\xff\xfe\x80caf\xc3\xa9' | od -An -tx1",
		"false || true && (echo a; echo b) | tac; echo $?",
		"cd /usr; echo b[i]n {1..3}",
		"printf %s " + strings.Repeat("0123456789abcdef", 6*1024) + " | wc -c",
		"echo \"$0\"; echo $#",
	}
	for _, command := range commands {
		if err := s.same(command); err != nil {
			return err
		}
	}
	return nil
}

func scriptOnStdin(s *scene) error {
	return s.sameWith("", "echo one\nread x\nthe line\necho \"got $x\"\ncat <<E\nhere\nE\nexit 4\n")
}

func noNoise(s *scene) error {
	if r := s.Carrel("stop", s.user.Name); r.Code != 0 {
		return fmt.Errorf("carrel stop: %v", r)
	}
	for _, state := range []string{"cold", "warm"} {
		if r := s.run("printf x"); r.Code != 0 || r.Stdout != "x" || r.Stderr != "" {
			return fmt.Errorf("%s: %v", state, r)
		}
	}
	return nil
}

// started is a command under way.
type started struct {
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Reader
	// pipes are the client's standard streams.
	pipes []io.Closer
}

// start starts a session without terminal and waits for its line "ready".
func (s *scene) start(v visit) (*started, error) {
	cmd := s.open(v)
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	// A pipe, as the others are: where one stream has no other end, nobody can
	// tell that the client has vanished.
	stderr, err := cmd.StderrPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	alarm := time.AfterFunc(2*patience, func() { _ = cmd.Process.Kill() })
	s.later(func() {
		alarm.Stop()
		_ = cmd.Process.Kill()
		stderr.Close()
		out.Close()
		_ = cmd.Wait()
	})
	p := &started{cmd: cmd, in: in, out: bufio.NewReader(out), pipes: []io.Closer{in, out, stderr}}
	if line, err := p.out.ReadString('\n'); line != "ready\n" {
		return nil, fmt.Errorf("first line %q, %w", line, err)
	}
	return p, nil
}
