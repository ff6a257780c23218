//go:build fidelity

package fidelity

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/carrel-sh/carrel/test/internal/host"
)

// regressTests are those of OpenSSH's own tests (Debian's openssh-tests) that
// run commands or transfer files in a session and that an unprivileged user
// can run: they start an sshd of the user's own, which gets the session by the
// user's login shell, carrelsh. The rest test keys, parsers, ciphers and
// forwarding, which sshd and its client do by themselves; or they need sudo.
var regressTests = strings.Fields(`connect proxy-connect connect-uri exit-status exit-status-signal transfer stderr-data
	stderr-after-eof broken-pipe yes-head envpass banner localcommand forcecommand agent key-options
	sftp sftp-cmds sftp-badcmds sftp-batch sftp-glob sftp-perm sftp-uri scp scp-uri scp3 putty-transfer
	reexec`)

// regressEnv runs TestOpenSSHRegress, which takes some minutes, where it is 1.
const regressEnv = "CARREL_OPENSSH_TESTS"

// TestOpenSSHRegress runs them and holds the verdicts against a golden file.
func TestOpenSSHRegress(t *testing.T) {
	if os.Getenv(regressEnv) != "1" {
		return // a target of its own
	}
	f := setup(t)
	var b strings.Builder
	for _, name := range regressTests {
		verdict, detail := f.regressOne(t, f.regress, name)
		if verdict != "ok" { // what does the oracle say?
			plain, _ := f.regressOne(t, f.doors[0].oracle, name)
			verdict += "; a plain account: " + plain
		}
		fmt.Fprintf(&b, "%s: %s\n", name, verdict)
		t.Logf("%s: %s %s", name, verdict, detail)
	}
	const golden = "testdata/openssh-tests.golden"
	if *update {
		if err := os.WriteFile(golden, []byte(b.String()), 0o644); err != nil { //nolint:gosec // a file of the repository
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), b.String()); diff != "" {
		t.Errorf("%s (-committed +measured):\n%s", golden, diff)
	}
}

// regressOne runs one of the tests, as the user and on the host, in a fresh
// copy.
func (f *fixture) regressOne(t *testing.T, a host.Account, name string) (verdict, detail string) {
	t.Helper()
	dir := filepath.Join(a.Home, "regress")
	defer os.RemoveAll(dir)
	for _, args := range [][]string{{"cp", "-a", "/usr/lib/openssh/regress", dir}, {"chown", "-R", a.Name + ":", dir}} {
		if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%q: %v: %s", args, err, out)
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	cmd := alone(exec.CommandContext(ctx, "sh", filepath.Join(dir, "test-exec.sh"), dir, filepath.Join(dir, name+".sh")))
	cmd.Dir = dir
	cmd.SysProcAttr.Credential = a.Credential()
	// ssh runs its ProxyCommand, here the server, by $SHELL: on the host, please.
	cmd.Env = append(a.Environ(), "SHELL=/bin/sh", "PATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin:"+dir, "BUILDDIR="+dir, "OBJ="+dir, "SUDO=", "TEST_SHELL=sh",
		"TEST_SSH_SSH=ssh", "TEST_SSH_SFTPSERVER=/usr/lib/openssh/sftp-server", "TEST_SSH_PLINK=plink",
		"TEST_SSH_PUTTYGEN=puttygen", "TEST_SSH_IPV6=no", "TEST_SSH_ECC=yes", "TEST_SSH_UNSAFE_PERMISSIONS=1")
	cmd.WaitDelay = time.Second
	out, err := cmd.CombinedOutput()
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	detail = strings.Join(lines[max(0, len(lines)-4):], " / ")
	var exit *exec.ExitError
	switch {
	case strings.Contains(string(out), "SKIPPED"):
		return "skipped", detail
	case err == nil:
		return "ok", ""
	case errors.As(err, &exit) && ctx.Err() == nil:
		return "failed", detail
	}
	return "did not end", detail
}
