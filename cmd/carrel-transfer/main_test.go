package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// TestMain lets the test binary be carrel-transfer where it is called by one
// of its names, so that real clients run what was built with -race.
func TestMain(m *testing.M) {
	switch filepath.Base(os.Args[0]) {
	case "sftp-server", "scp", "carrel-transfer":
		main()
	}
	os.Exit(m.Run())
}

// noSleep spares each program the second that the race detector waits at exit.
const noSleep = "GORACE=atexit_sleep_ms=0"

// tools returns a directory with our program under each of the names.
func tools(t testing.TB, names ...string) string {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for _, name := range names {
		if err := os.Symlink(self, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestNames(t *testing.T) {
	dir := tools(t, "sftp-server", "scp", "carrel-transfer")
	for _, test := range []struct {
		args   []string
		status int
		stderr bool
	}{
		{[]string{"carrel-transfer"}, 64, true},
		{[]string{"carrel-transfer", "-t", "x"}, 64, true},
		{[]string{"scp", "a", "b"}, 1, true},
		{[]string{"scp", "-t", "."}, 0, false},
		{[]string{"sftp-server"}, 0, false},
		{[]string{"sftp-server", "-h"}, 1, true},
		{[]string{"sftp-server", "-P", "nonsense"}, 255, true},
		{[]string{"sftp-server", "-Q", "requests"}, 0, false},
	} {
		cmd := exec.Command(filepath.Join(dir, test.args[0]), test.args[1:]...)
		cmd.Dir = t.TempDir()
		cmd.Env = append(os.Environ(), noSleep)
		stderr := &limited{}
		cmd.Stderr = stderr
		err := cmd.Run()
		if got := cmd.ProcessState.ExitCode(); got != test.status {
			t.Errorf("%q: status %d (%v); want %d", test.args, got, err, test.status)
		}
		if got := len(stderr.text) > 0; got != test.stderr {
			t.Errorf("%q: stderr %q; want some: %v", test.args, stderr.text, test.stderr)
		}
	}
}

// limited keeps the beginning of what is written.
type limited struct{ text []byte }

func (l *limited) Write(b []byte) (int, error) {
	l.text = append(l.text, b[:min(len(b), 1<<16-len(l.text))]...)
	return len(b), nil
}

// TestClientGone: a reader that leaves is status 1, not a death by SIGPIPE
// that the session would report.
func TestClientGone(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "big"), make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(filepath.Join(tools(t, "scp"), "scp"), "-f", "big")
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), noSleep)
	cmd.Stdout = w
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	w.Close()
	r.Close()
	_, _ = in.Write([]byte{0, 0}) // it may be gone already
	_ = cmd.Wait()
	if got := cmd.ProcessState.ExitCode(); got != 1 {
		t.Errorf("status %d; want 1", got)
	}
}
