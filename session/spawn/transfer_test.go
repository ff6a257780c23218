package spawn

import (
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
	const rc = "/bin/sh /home/alice/.ssh/rc"
	for _, test := range []struct {
		text, want string
		exists     bool
	}{
		{rc, ":", false},
		{rc, rc, true},
		{rc + ";id", rc + ";id", false},
		{"/bin/sh /home/bob/.ssh/rc", "/bin/sh /home/bob/.ssh/rc", false},
		{"echo " + rc, "echo " + rc, false},
	} {
		order := &session.Spawn{Home: "/home/alice", Command: session.Command{HasText: true, Text: test.text}}
		passOver(order, func(string) bool { return test.exists })
		if order.Command.Text != test.want {
			t.Errorf("passOver(%q), exists %v = %q; want %q", test.text, test.exists, order.Command.Text, test.want)
		}
	}
}
