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
		got, err := s.Text(1000, "alice", tt.motd, tt.last, tt.env)
		if err != nil || !regexp.MustCompile("^"+tt.want+"$").MatchString(got) {
			t.Errorf("%d: Text = %q, %v; want %q", i, got, err, tt.want)
		}
	}
	if got, err := s.Text(1001, "bob", "", true, nil); got != "" || err != nil {
		t.Errorf("another user's first: %q, %v", got, err)
	}
	if err := s.Forget(1000); err != nil {
		t.Error(err)
	}
	if got, err := s.Text(1000, "alice", "", true, nil); got != "" || err != nil {
		t.Errorf("after Forget: %q, %v", got, err)
	}
	if err := s.Forget(77); err != nil {
		t.Errorf("Forget of nobody: %v", err)
	}
}

// TestTextFormer: whoever has the uid now is not told when and from where its
// former owner came.
func TestTextFormer(t *testing.T) {
	s := Store{Dir: t.TempDir()}
	for i, tt := range []struct {
		user string
		told bool
	}{{"alice", false}, {"alice", true}, {"bob", false}, {"bob", true}, {"alice", false}} {
		got, err := s.Text(1000, tt.user, "", true, []string{"SSH_CONNECTION=192.0.2.1 5"})
		if told := strings.HasPrefix(got, "Last login: "); told != tt.told || err != nil {
			t.Errorf("%d: Text for %s = %q, %v; want a last login: %v", i, tt.user, got, err, tt.told)
		}
	}
	// What a former release remembered does not say whose it is.
	if err := os.WriteFile(s.file(1000), []byte(`{"at":"2026-01-02T03:04:05Z"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if got, err := s.Text(1000, "alice", "", true, nil); got != "" || err != nil {
		t.Errorf("nobody's last login: %q, %v", got, err)
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
	if got, err := s.Text(1000, "alice", fifo, true, nil); got != "" || err == nil {
		t.Errorf("a fifo and half a file: %q, %v; want an error and nothing", got, err)
	}
	if got, err := s.Text(1000, "alice", fifo, true, nil); !strings.HasPrefix(got, "Last login: ") || err == nil {
		t.Errorf("after it: %q, %v; want the last login", got, err)
	}
	long := filepath.Join(dir, "long")
	if err := os.WriteFile(long, []byte(strings.Repeat(strings.Repeat("x", 2000)+"\n", 100)), 0o600); err != nil {
		t.Fatal(err)
	}
	if got, err := s.Text(1000, "alice", long, true, nil); err != nil || len(got) > session.MaxNotice || !strings.Contains(got, "\nLast login: ") {
		t.Errorf("a long message: %d bytes, %v", len(got), err)
	}
}
