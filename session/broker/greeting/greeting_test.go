package greeting

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/carrel-sh/carrel/session"
)

func TestText(t *testing.T) {
	dir := t.TempDir()
	motd := filepath.Join(dir, "motd")
	if err := os.WriteFile(motd, []byte("Welcome, \x1b[2Jstranger\n\tü\r\nlast"), 0o600); err != nil {
		t.Fatal(err)
	}
	s := Store{Dir: filepath.Join(dir, "last")}
	env := []string{"TERM=x", "SSH_CONNECTION=2001:db8::1 5 2001:db8::2 22"}
	const message = "Welcome, [?]\\[2Jstranger\n    ü\nlast\n"
	for i, tt := range []struct {
		motd string
		last bool
		env  []string
		want string // a regular expression
	}{
		{"", false, env, ""},
		{motd, false, env, message},
		{motd, true, env, message}, // the first is told of none
		{motd, true, nil, message + "Last login: ... ... .. ..:..:.. 20.. from 2001:db8::1\n"},
		{"", true, []string{"SSH_CONNECTION=$(id) 1"}, "Last login: ... ... .. ..:..:.. 20..\n"},
		{filepath.Join(dir, "none"), true, nil, "Last login: ... ... .. ..:..:.. 20..\n"},
	} {
		got, err := s.Text(1000, tt.motd, tt.last, tt.env)
		if err != nil || !regexp.MustCompile("^"+tt.want+"$").MatchString(got) {
			t.Errorf("%d: Text = %q, %v; want %q", i, got, err, tt.want)
		}
	}
	if got, err := s.Text(1001, "", true, nil); got != "" || err != nil {
		t.Errorf("another user's first: %q, %v", got, err)
	}
	if err := s.Forget(1000); err != nil {
		t.Error(err)
	}
	if got, err := s.Text(1000, "", true, nil); got != "" || err != nil {
		t.Errorf("after Forget: %q, %v", got, err)
	}
	if err := s.Forget(77); err != nil {
		t.Errorf("Forget of nobody: %v", err)
	}
}

// What cannot be read is left out, and nobody waits for it.
func TestTextFaults(t *testing.T) {
	dir := t.TempDir()
	fifo := filepath.Join(dir, "fifo")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	s := Store{Dir: dir}
	if err := os.WriteFile(s.file(1000), []byte(`{"at":"20`), 0o600); err != nil {
		t.Fatal(err)
	}
	if got, err := s.Text(1000, fifo, true, nil); got != "" || err == nil {
		t.Errorf("a fifo and half a file: %q, %v; want an error and nothing", got, err)
	}
	if got, err := s.Text(1000, fifo, true, nil); !strings.HasPrefix(got, "Last login: ") || err == nil {
		t.Errorf("after it: %q, %v; want the last login", got, err)
	}
	long := filepath.Join(dir, "long")
	if err := os.WriteFile(long, []byte(strings.Repeat(strings.Repeat("x", 2000)+"\n", 100)), 0o600); err != nil {
		t.Fatal(err)
	}
	if got, err := s.Text(1000, long, true, nil); err != nil || len(got) > session.MaxNotice || !strings.Contains(got, "\nLast login: ") {
		t.Errorf("a long message: %d bytes, %v", len(got), err)
	}
}
