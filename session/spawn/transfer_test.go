package spawn

import (
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/carrel-sh/carrel/session"
)

func TestLend(t *testing.T) {
	has := func(paths ...string) func(string) bool {
		return func(p string) bool {
			for _, have := range paths {
				if p == have {
					return true
				}
			}
			return false
		}
	}
	const debian = "/usr/lib/openssh/sftp-server"
	for _, test := range []struct {
		text, want, path string
		exists           func(string) bool
	}{
		{debian, toolsDir + "/sftp-server", "PATH=/bin:" + toolsDir, has()},
		{debian + " -l INFO", toolsDir + "/sftp-server -l INFO", "PATH=/bin:" + toolsDir, has()},
		{"internal-sftp", toolsDir + "/sftp-server", "PATH=/bin", has("/bin/scp")},
		{debian, debian, "PATH=/bin", has(debian, "/usr/bin/scp")},
		{"scp -t x", "scp -t x", "PATH=/bin:" + toolsDir, has(debian)},
		// Only the whole first word counts, and nothing else changes.
		{debian + ";id", debian + ";id", "PATH=/bin", has("/bin/scp")},
		{"echo " + debian, "echo " + debian, "PATH=/bin", has("/bin/scp")},
		{"", "", "PATH=/bin", has("/bin/scp")},
	} {
		order := &session.Spawn{Command: session.Command{HasText: test.text != "", Text: test.text}, Env: []string{"PATH=/bin"}}
		lend(order, test.exists)
		if order.Command.Text != test.want || !cmp.Equal(order.Env, []string{test.path}) {
			t.Errorf("lend(%q) = %q, %q; want %q, %q", test.text, order.Command.Text, order.Env, test.want, test.path)
		}
	}
}

func TestPassOver(t *testing.T) {
	home := t.TempDir()
	rc := "/bin/sh " + home + "/.ssh/rc"
	for _, text := range []string{rc + ";id", "/bin/sh /home/bob/.ssh/rc", "echo " + rc, ""} {
		order := &session.Spawn{Home: home, Command: session.Command{HasText: text != "", Text: text}}
		if passOver(order); order.Command.Text != text {
			t.Errorf("passOver(%q) = %q; want no change", text, order.Command.Text)
		}
	}
	run := func() string {
		order := &session.Spawn{Home: home, Command: session.Command{HasText: true, Text: rc}}
		passOver(order)
		cmd := exec.Command("/bin/sh", "-c", order.Command.Text)
		cmd.Stdin = strings.NewReader("cookie\n")
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Errorf("%q: %v", order.Command.Text, err)
		}
		return string(out)
	}
	if got := run(); got != "" {
		t.Errorf("without the file: %q; want nothing", got)
	}
	if err := os.Mkdir(home+"/.ssh", 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(home+"/.ssh/rc", []byte("read x; echo got $x\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := run(); got != "got cookie\n" {
		t.Errorf("with the file: %q", got)
	}
}
