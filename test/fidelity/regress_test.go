package fidelity

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/carrel-sh/carrel/test/internal/host"
)

// openSSHTests is where Debian's package openssh-tests has OpenSSH's own tests.
const openSSHTests = "/usr/lib/openssh/regress"

// regressGolden has the verdict of every one of them.
const regressGolden = "testdata/openssh-tests.golden"

// quickTests are those of OpenSSH's tests that are about a session and take a
// few seconds. With CARREL_LONG all are run.
var quickTests = strings.Fields(`broken-pipe connect exit-status-signal scp-uri sftp sftp-batch sftp-glob sftp-perm sftp-uri
	yes-head`)

// fixedPorts are those that listen on ports of their own choice, and so run one
// after another.
var fixedPorts = strings.Fields(`cfgmatch cfgmatchlisten channel-timeout dynamic-forward forward-control forwarding`)

// regressReasons say why one of the tests fails as a user of carrelsh, or
// cannot run.
var regressReasons = map[string]string{
	"agent-restrict": authInfo,
	"authinfo":       authInfo,
	"envpass":        allowed,
	"multiplex":      allowed,
}

const (
	authInfo = "SSH_USER_AUTH (ExposeAuthInfo) names a file of the host's, which is not inside"
	allowed  = "it sends _XXX_TEST, and only LANG, LC_*, TZ and COLORTERM pass"
)

// TestOpenSSHRegress runs OpenSSH's own tests as an unprivileged user whose
// login shell is carrelsh: they start an sshd of the user's own, which starts
// each session by that shell. Where one is not ok, it is run again as a plain
// account. The home is the host's, for client and session share files there.
func TestOpenSSHRegress(t *testing.T) {
	f := setup(t)
	t.Parallel()
	committed, err := os.ReadFile(regressGolden)
	if err != nil {
		t.Fatal(err)
	}
	want := make(map[string]string)
	for line := range strings.Lines(string(committed)) {
		name, _, _ := strings.Cut(line, ":")
		want[name] = line
	}
	all := allRegressTests(t)
	names := quickTests
	if long() {
		names = all
	}
	got := f.regress(t, names)
	for _, name := range names {
		if diff := cmp.Diff(want[name], got[name]); diff != "" && !*update {
			t.Errorf("%s (-committed +measured):\n%s", regressGolden, diff)
		}
		want[name] = got[name]
	}
	var b strings.Builder
	for _, name := range all {
		if want[name] == "" {
			t.Errorf("%s has no verdict on %s; run with CARREL_LONG=1 and -update", regressGolden, name)
		}
		b.WriteString(want[name])
	}
	tally(t, b.String())
	if *update {
		if err := os.WriteFile(regressGolden, []byte(b.String()), 0o644); err != nil { //nolint:gosec // a file of the repository
			t.Fatal(err)
		}
	}
}

// tally holds what the README says of the verdicts against them. A test that
// is not ok has a reason, unless it fails on a plain account as well.
func tally(t *testing.T, verdicts string) {
	t.Helper()
	var ok, skip, plain, own, all int
	for line := range strings.Lines(verdicts) {
		name, verdict, _ := strings.Cut(strings.TrimSpace(line), ": ")
		all++
		switch {
		case verdict == "ok":
			ok++
		case strings.HasPrefix(verdict, "skipped: "):
			skip++
		case !strings.Contains(verdict, "; a plain account: ok"):
			plain++
		case regressReasons[name] == "":
			t.Errorf("%s: nobody says why", strings.TrimSpace(line))
		default:
			own++
		}
	}
	readme, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	want := fmt.Sprintf("Of %d, %d pass, %d skip themselves, %d fail on a plain account, too,\nand %d fail by what Carrel does on purpose", all, ok, skip, plain, own)
	if !strings.Contains(string(readme), want) {
		t.Errorf("the README does not say:\n%s", want)
	}
}

// allRegressTests are what the package's Makefile runs.
func allRegressTests(t *testing.T) []string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(openSSHTests, "Makefile"))
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, m := range regexp.MustCompile(`(?m)^(?:LTESTS|INTEROP_TESTS|EXTRA_TESTS)=((?:.*\\\n)*.*)$`).FindAllStringSubmatch(string(text), -1) {
		all = append(all, strings.Fields(strings.ReplaceAll(m[1], "\\", " "))...)
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// regress returns a line for the golden file about each test.
func (f *fixture) regress(t *testing.T, names []string) map[string]string {
	var mu sync.Mutex
	var wg sync.WaitGroup
	lines := make(map[string]string)
	base := 10000 + os.Getpid()%40*500 // two of these may run on one machine
	slots := make(chan struct{}, 3)
	var alone sync.Mutex
	for i, name := range names {
		wg.Go(func() {
			if slices.Contains(fixedPorts, name) {
				alone.Lock()
				defer alone.Unlock()
			}
			slots <- struct{}{}
			defer func() { <-slots }()
			begin := time.Now()
			verdict, detail := f.regressOne(t, f.ruled["regress"], name, base+5*i)
			if verdict == "failed" || verdict == "did not end" { // many of them have deadlines of a second or two
				verdict, detail = f.regressOne(t, f.ruled["regress"], name, base+5*i)
			}
			line := name + ": " + verdict
			switch verdict {
			case "ok":
			case "skipped":
				line += ": " + detail
			default: // what does the oracle say?
				plain, _ := f.regressOne(t, f.doors[0].oracle, name, base+5*i)
				line += "; a plain account: " + plain
			}
			if reason := regressReasons[name]; reason != "" {
				line += ": " + reason
			}
			mu.Lock()
			defer mu.Unlock()
			t.Logf("%s: %v %s", line, time.Since(begin).Round(100*time.Millisecond), detail)
			lines[name] = line + "\n"
		})
	}
	wg.Wait()
	return lines
}

// skipped is how a test says that it cannot run, and why.
var skipped = regexp.MustCompile(`(?m)^(?:SKIPPED|skipped):? \(?(.*?)\)?$`)

// regressOne runs one of the tests, as the user and on the host, in a fresh
// copy.
func (f *fixture) regressOne(t *testing.T, a host.Account, name string, port int) (verdict, detail string) {
	dir := filepath.Join(a.Home, "regress-"+name)
	defer os.RemoveAll(dir)
	for _, args := range [][]string{
		{"cp", "-a", openSSHTests, dir},
		// An sshd of one's own may not do what PAM has a login do, and says so on stderr.
		{"sed", "-i", `s/^\tUsePAM\t.*/\tUsePAM no/`, filepath.Join(dir, "test-exec.sh")},
		{"chown", "-R", a.Name + ":", dir},
	} {
		if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
			t.Errorf("%q: %v: %s", args, err, out)
			return "not run", ""
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	defer cancel()
	cmd := alone(exec.CommandContext(ctx, "sh", filepath.Join(dir, "test-exec.sh"), dir, filepath.Join(dir, name+".sh")))
	cmd.Dir = dir
	cmd.SysProcAttr.Credential = a.Credential()
	// ssh runs its ProxyCommand, here the server, by $SHELL: on the host, please.
	cmd.Env = append(a.Environ(), "SHELL=/bin/sh", "PATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin:"+dir, "BUILDDIR="+dir, "OBJ="+dir, "SUDO=", "TEST_SHELL=sh",
		"TEST_SSH_SSH=ssh", "TEST_SSH_SFTPSERVER=/usr/lib/openssh/sftp-server", "TEST_SSH_PLINK=plink", "TEST_SSH_PORT="+strconv.Itoa(port),
		"TEST_SSH_PUTTYGEN=puttygen", "TEST_SSH_CONCH=conch3", "TEST_SSH_IPV6=no", "TEST_SSH_ECC=yes", "TEST_SSH_UNSAFE_PERMISSIONS=1")
	cmd.WaitDelay = time.Second
	out, err := cmd.CombinedOutput()
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	detail = strings.Join(lines[max(0, len(lines)-4):], " / ")
	var exit *exec.ExitError
	switch {
	case skipped.Match(out):
		return "skipped", string(skipped.FindSubmatch(out)[1])
	case err == nil, errors.Is(err, exec.ErrWaitDelay): // something in the background holds the output
		return "ok", ""
	case errors.As(err, &exit) && ctx.Err() == nil:
		return "failed", detail
	}
	return "did not end", detail
}
