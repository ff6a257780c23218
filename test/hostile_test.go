package test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/carrel-sh/carrel/test/internal/host"
)

func TestArgv(t *testing.T) {
	f := setup(t)
	usage := [][]string{
		{"-c"}, {"-x"}, {"--no-such-option"}, {"file"}, {"-l", "file"}, {"-cc"}, {"--socket"}, {"-c", "--"},
		{"-\xff"}, {strings.Repeat("A", 100_000)}, {"-" + strings.Repeat("l", 4096) + "x"}, {""},
	}
	for _, args := range usage {
		wantFailure(t, fmt.Sprintf("%.60q", args), host.Run(f.Direct(f.alice, args...)), 64, "usage: ")
	}
	// An argv[0] of any kind; one that begins with '-' is a login.
	for _, name := range []string{"", "-", "sh", "--", "-carrelsh", "../../x", "\xff\n", strings.Repeat("x", 100_000)} {
		cmd := f.Direct(f.alice, "-c", "exit 5")
		cmd.Args[0] = name
		if r := host.Run(cmd); r.Code != 5 || r.Stdout+r.Stderr != "" {
			t.Errorf("argv[0] %.20q: %v; want exit 5", name, r)
		}
	}
	many := []string{"-c", "echo $#", "name"}
	for range 5000 {
		many = append(many, "a")
	}
	r := host.Run(f.Direct(f.alice, many...))
	if r.Code != 0 {
		wantFailure(t, "5000 arguments", r, 126, "too long")
	} else if r.Stdout != "5000\n" {
		t.Errorf("5000 arguments: %v", r)
	}
}

// TestEnvironment brings names along that make programs run or load something,
// and looks at what arrives.
func TestEnvironment(t *testing.T) {
	f := setup(t)
	script := filepath.Join(f.Dir, "evil.sh")
	if err := os.WriteFile(script, []byte("echo EVIL\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	env := []string{
		"BASH_ENV=" + script, "ENV=" + script, "LD_PRELOAD=" + script, "LD_LIBRARY_PATH=/tmp", "LD_AUDIT=" + script,
		"BASH_FUNC_id%%=() { echo EVIL; }", "SHELLOPTS=xtrace", "PS4=$(echo EVIL >&2)", "PROMPT_COMMAND=echo EVIL",
		"IFS=E", "PATH=/tmp", "HOME=/etc", "SHELL=/bin/evil", "USER=root", "LOGNAME=root", "GODEBUG=madvdontneed=1",
		"GOTRACEBACK=crash", "GOMEMLIMIT=1", "GOGC=1", "GOMAXPROCS=1000", "_LIBCONTAINER_INITPIPE=3", "_LIBCONTAINER_LOGPIPE=1",
		"CARREL_SOCKET=/tmp/x", "LISTEN_FDS=3", "LISTEN_PID=1", "NOTIFY_SOCKET=/tmp/x", "TMPDIR=/tmp/x", "PYTHONSTARTUP=" + script,
		"PERL5OPT=-Mevil", "LOCPATH=/tmp", "NLSPATH=/tmp", "TERMINFO=/tmp", "TERMCAP=x", "MAIL=/etc/shadow", "GCONV_PATH=/tmp",
		"TERM=../../etc/passwd\x1b[2J", "LANG=$(id)", "LC_ALL=a/../b", "LC_EVIL\n=x", "TZ=:/etc/shadow", "COLORTERM=\x1b]0;x\a",
		"SSH_CONNECTION=$(id)", "no-equals-sign", "=", "=x", "A=" + strings.Repeat("x", 100_000),
		"LC_CTYPE=C.UTF-8", "LANG=POSIX",
	}
	for i := range 500 {
		env = append(env, fmt.Sprintf("LC_X%d=1", i))
	}
	cmd := f.Direct(f.alice, "-c", "env -0; id -un")
	cmd.Env = env
	r := host.Run(cmd)
	if evil := regexp.MustCompile(`[^\x00]*(?i:evil)[^\x00]*`).FindString(r.Stdout); r.Code != 0 || r.Stderr != "" || evil != "" {
		t.Fatalf("%q arrived; %v", evil, r)
	}
	got := make(map[string]string)
	fields := strings.Split(r.Stdout, "\x00")
	for _, kv := range fields[:len(fields)-1] {
		name, value, _ := strings.Cut(kv, "=")
		got[name] = value
	}
	for name, want := range map[string]string{
		"HOME": f.alice.Home, "USER": f.alice.Name, "LOGNAME": f.alice.Name, "SHELL": "/bin/bash",
		"LANG": "POSIX", "LC_CTYPE": "C.UTF-8",
	} {
		if got[name] != want {
			t.Errorf("%s=%q inside; want %q", name, got[name], want)
		}
	}
	allowed := []string{
		"HOME", "USER", "LOGNAME", "SHELL", "PATH", "MAIL", "TERM", "LANG", "TZ", "COLORTERM",
		"PWD", "OLDPWD", "SHLVL", "_", // bash makes these itself
		"SSH_CONNECTION", "SSH_CLIENT", "SSH_TTY", "container",
	}
	for name, value := range got {
		if !slices.Contains(allowed, name) && !strings.HasPrefix(name, "LC_") {
			t.Errorf("%s=%q arrived inside", name, value)
		}
		if strings.ContainsAny(value, "\x1b\x07$") || strings.Contains(value, "..") {
			t.Errorf("%s=%q arrived inside", name, value)
		}
	}
	if path := got["PATH"]; strings.Contains(path, "/tmp") || !strings.Contains(path, "/usr/bin") {
		t.Errorf("PATH=%q inside", path)
	}
	// sshd passes what AcceptEnv names; the daemon decides again.
	ssh := f.sshd.Command(f.alice, "env", "-o", "SendEnv=CARREL_HOSTILE* LC_*")
	ssh.Env = append(os.Environ(), "CARREL_HOSTILE_X=1", "LC_TIME=C.UTF-8")
	r = host.Run(ssh)
	if r.Code != 0 || strings.Contains(r.Stdout, "CARREL_HOSTILE") || !strings.Contains(r.Stdout, "LC_TIME=C.UTF-8\n") {
		t.Errorf("through ssh: %v", r)
	}
}

func TestEmptyEnvironment(t *testing.T) {
	f := setup(t)
	cmd := f.Direct(f.alice, "-c", "echo $HOME")
	cmd.Env = []string{}
	if r := host.Run(cmd); r.Stdout != f.alice.Home+"\n" || r.Code != 0 {
		t.Errorf("%v", r)
	}
}

// wrapped runs carrelsh -c command after a line of shell, as the account.
func wrapped(f *fixture, a host.Account, before, command, redirect string) host.Result {
	script := fmt.Sprintf("%s\nexec %q -c \"$1\" %s", before, f.Path("carrelsh"), redirect)
	cmd := exec.Command("/bin/bash", "-c", script, "bash", command)
	direct := f.Direct(a)
	cmd.Env, cmd.Dir, cmd.SysProcAttr = direct.Env, direct.Dir, direct.SysProcAttr
	return host.Run(cmd)
}

// TestClosedDescriptors starts carrelsh with holes in 0 to 2.
func TestClosedDescriptors(t *testing.T) {
	f := setup(t)
	for _, closed := range []string{"<&-", ">&-", "2>&-", "<&- >&-", "<&- 2>&-", ">&- 2>&-", "<&- >&- 2>&-"} {
		r := wrapped(f, f.alice, "", "cat; echo out; echo err >&2; exit 3", closed)
		// What a command cannot write makes no difference to its status here.
		if r.Code != 3 || r.Err != nil {
			t.Errorf("%s: %v; want exit 3", closed, r)
		}
		for stream, got := range map[string]string{">&-": r.Stdout, "2>&-": r.Stderr} {
			want := map[string]string{">&-": "out\n", "2>&-": "err\n"}[stream]
			if slices.Contains(strings.Fields(closed), stream) {
				want = ""
			}
			if got != want {
				t.Errorf("%s: wrote %q; want %q", closed, got, want)
			}
		}
	}
	// Other descriptors do not get inside.
	if r := wrapped(f, f.alice, "exec 7</etc/passwd 9>/dev/null", "ls /proc/self/fd", ""); r.Stdout != "0\n1\n2\n3\n" {
		t.Errorf("descriptors inside: %v; want 0, 1, 2 and ls's own", r)
	}
}

// TestRlimits starts carrelsh with too little of everything: it works, or says
// so with a documented status, and never hangs or dies of a signal.
func TestRlimits(t *testing.T) {
	f := setup(t)
	for _, limit := range []string{
		"-n 3", "-n 5", "-n 8", "-n 12", "-n 16", "-n 64", "-f 0", "-c 0", "-c unlimited", "-s 64", "-s unlimited",
		"-v 1000", "-v 50000", "-l 0", "-i 0", "-q 0", "-e 0", "-t 60",
	} {
		r := wrapped(f, f.alice, "ulimit "+limit+" || exit 90", "exit 3", "")
		switch {
		case r.Code == 3 && r.Stdout+r.Stderr == "":
		case r.Code == 90 || r.Code == 126 && strings.Contains(r.Stderr, "bash:"): // bash itself could not
		case strings.HasPrefix(limit, "-v") && (r.Signal != 0 || strings.Contains(r.Stderr, "fatal error")): // nothing starts: Go reserves address space
		case slices.Contains([]int{64, 69, 70, 71, 75}, r.Code) && r.Stdout == "" && strings.Count(r.Stderr, "\n") == 1:
			t.Logf("ulimit %s: %v", limit, r)
		default:
			t.Errorf("ulimit %s: %v; want exit 3, or a sentence", limit, r)
		}
	}
	if r := wrapped(f, f.alice, "ulimit -u 1", "exit 3", ""); r.Signal != 0 || r.Err != nil || r.Stdout != "" {
		t.Errorf("ulimit -u 1: %v", r)
	}
	// What carrelsh had is not what the session has.
	if got := wrapped(f, f.alice, "ulimit -n 32", "ulimit -n", ""); got.Stdout == "32\n" || got.Code != 0 {
		t.Errorf("ulimit -n inside after 32 outside: %v", got)
	}
	f.in(t, f.alice, "true")
}

func TestUmask(t *testing.T) {
	f := setup(t)
	for _, mask := range []string{"0000", "0022", "0077", "0777"} {
		if r := wrapped(f, f.alice, "umask "+mask, "umask", ""); r.Stdout != mask+"\n" || r.Code != 0 {
			t.Errorf("umask %s outside; inside %v", mask, r)
		}
		// And none of it changes what Carrel itself makes.
		f.empty(t)
		if r := wrapped(f, f.alice, "umask "+mask, "exit 4", ""); r.Code != 4 {
			t.Errorf("cold, umask %s: %v", mask, r)
		}
	}
}

// TestIgnoredSignals gives carrelsh dispositions and a mask that a careless
// parent left: the session starts with none of them.
func TestIgnoredSignals(t *testing.T) {
	f := setup(t)
	got := wrapped(f, f.alice, "trap '' HUP INT QUIT TERM PIPE CHLD USR1 TSTP", "grep -E 'Sig(Blk|Ign)' /proc/self/status", "")
	want := "SigBlk:\t0000000000000000\nSigIgn:\t0000000000000000\n"
	if got.Stdout != want || got.Code != 0 {
		t.Errorf("inside: %v; want %q", got, want)
	}
	// The same for carreld, as by nohup or an init script.
	const limits = "ulimit -c; ulimit -n; ulimit -u; ulimit -f; umask"
	before := f.in(t, f.alice, limits)
	f.reconfigure(t, host.Options{Before: "trap '' HUP INT QUIT PIPE CHLD USR1 TSTP; ulimit -S -c 0 -n 300; umask 0777; exec 7</etc/passwd"})
	if got := f.in(t, f.alice, "grep -E 'Sig(Blk|Ign)' /proc/self/status"); got+"\n" != want {
		t.Errorf("inside, carreld started carelessly: %q; want %q", got, want)
	}
	if got := f.in(t, f.alice, limits); got != before {
		t.Errorf("limits inside, carreld started carelessly: %q; otherwise %q", got, before)
	}
	if got := f.in(t, f.alice, "ls /proc/self/fd"); got != "0\n1\n2\n3" {
		t.Errorf("descriptors inside, carreld started carelessly: %q", got)
	}
}

func TestSetuid(t *testing.T) {
	f := setup(t)
	binary, err := os.ReadFile(f.Path("carrelsh"))
	if err != nil {
		t.Fatal(err)
	}
	for name, mode := range map[string]uint32{"setuid": 0o4755, "setgid": 0o2755} {
		path := filepath.Join(f.Dir, name)
		if err := os.WriteFile(path, binary, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := syscall.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		cmd := f.Direct(f.alice, "-c", "echo ran")
		cmd.Path = path
		wantFailure(t, name, host.Run(cmd), 78, "set-uid")
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
	}
}
