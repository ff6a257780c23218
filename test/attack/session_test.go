package attack

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/carrel-sh/carrel/test/internal/host"
)

// look tells what a session has and is; what differs from host to host is left
// out, and ids are given names below.
const look = `cat /proc/self/status | grep -E '^(Umask|Uid|Gid|Groups|Sig|Shd|Cap|NoNewPrivs|Seccomp)' | grep -v SigQ
grep -E '^Max (core|nice|realtime priority)' /proc/self/limits
echo core $(ulimit -c) $(ulimit -Hc)
echo oom $(cat /proc/self/oom_score_adj)
echo slack $(cat /proc/self/timerslack_ns)
echo personality $(cat /proc/self/personality)
echo nice $(nice)
echo cwd $(pwd)
echo descriptors $(ls /proc/self/fd)
echo threads $(ls /proc/self/task | wc -l)`

// TestGolden holds what a session inherits against a golden file.
// carrelsh is started with as much of the opposite as can be.
func TestGolden(t *testing.T) {
	f := setup(t)
	f.empty(t)
	cmd := f.Direct(f.alice, "-c", look)
	shell := append([]string{
		"-c", "umask 027; ulimit -c unlimited 2>/dev/null; trap '' HUP INT QUIT TERM USR1 PIPE; exec 7</etc/passwd 9</dev/null; exec \"$@\"", "sh", cmd.Path,
	}, cmd.Args[1:]...)
	cmd.Path, cmd.Args = "/bin/sh", append([]string{"/bin/sh"}, shell...)
	r := host.Run(cmd)
	if r.Code != 0 || r.Err != nil || r.Stderr != "" {
		t.Fatalf("%v", r)
	}
	got := r.Stdout
	// useradd gives an account a group of its own with the same number.
	got = regexp.MustCompile(`\b`+strconv.Itoa(int(f.alice.UID))+`\b`).ReplaceAllString(got, "ID")
	got = regexp.MustCompile(`\b`+strconv.Itoa(int(f.alice.GID))+`\b`).ReplaceAllString(got, "ID")
	got = strings.ReplaceAll(got, f.alice.Home, "HOME")
	got = regexp.MustCompile(`(?m) +$`).ReplaceAllString(got, "")
	path := filepath.Join("testdata", "session.golden")
	if *update {
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
		write(t, path, got)
	}
	if diff := cmp.Diff(read(t, path), strings.TrimSpace(got)); diff != "" {
		t.Errorf("a session (-want +got):\n%s", diff)
	}
}

// dangerous are variables by which a program runs or loads something else, or
// trusts what it should not: those of ld.so(8), of shells and interpreters, of
// Go's runtime and libcontainer, and of what hands descriptors over.
var dangerous = strings.Fields(`
	LD_PRELOAD LD_LIBRARY_PATH LD_AUDIT LD_BIND_NOT LD_DEBUG LD_DEBUG_OUTPUT LD_DYNAMIC_WEAK LD_ORIGIN_PATH LD_PROFILE
	LD_PROFILE_OUTPUT LD_SHOW_AUXV LD_USE_LOAD_BIAS GCONV_PATH GETCONF_DIR HOSTALIASES LOCALDOMAIN LOCPATH MALLOC_TRACE
	NIS_PATH NLSPATH RESOLV_HOST_CONF RES_OPTIONS TMPDIR TZDIR GLIBC_TUNABLES
	BASH_ENV ENV SHELLOPTS BASHOPTS PS4 PROMPT_COMMAND IFS CDPATH GLOBIGNORE FPATH ZDOTDIR KSH_VERSION HISTFILE
	PERL5LIB PERL5OPT PERL5DB PYTHONPATH PYTHONSTARTUP PYTHONHOME PYTHONINSPECT RUBYLIB RUBYOPT NODE_OPTIONS JAVA_TOOL_OPTIONS
	GODEBUG GOTRACEBACK GOGC GOMAXPROCS GOMEMLIMIT _LIBCONTAINER_INITPIPE _LIBCONTAINER_LOGPIPE _LIBCONTAINER_SYNCPIPE
	LISTEN_FDS LISTEN_PID NOTIFY_SOCKET TERMCAP TERMINFO TERMINFO_DIRS TERMPATH KRB5_CONFIG SSH_ASKPASS DISPLAY XAUTHORITY
	DBUS_SESSION_BUS_ADDRESS XDG_RUNTIME_DIR SUDO_COMMAND EDITOR PAGER LESSOPEN GIT_SSH_COMMAND CARREL_SOCKET`)

func TestEnvironment(t *testing.T) {
	f := setup(t)
	for _, entry := range f.Entries() {
		cmd := entry.Command(f.alice, "env -0")
		if cmd.Env == nil {
			cmd.Env = os.Environ()
		}
		for _, name := range dangerous {
			if strings.HasPrefix(name, "LD_") || strings.HasPrefix(name, "GO") || name == "GLIBC_TUNABLES" {
				continue // for the program that is run on the host, below
			}
			cmd.Env = append(cmd.Env, name+"=/evil")
		}
		f.wantClean(t, entry.Name, host.Run(cmd))
	}
	cmd := f.Direct(f.alice, "-c", "env -0")
	for _, name := range dangerous {
		if name != "GOMAXPROCS" && name != "GOMEMLIMIT" && name != "GOGC" && name != "GODEBUG" {
			cmd.Env = append(cmd.Env, name+"=/evil")
		}
	}
	cmd.Env = append(cmd.Env, "TERM=vt100")
	r := host.Run(cmd)
	f.wantClean(t, "all of them", r)
	if !strings.Contains(r.Stdout, "TERM=vt100\x00") { // the twin
		t.Errorf("TERM did not arrive: %v", r)
	}
}

func (f *fixture) wantClean(t *testing.T, what string, r host.Result) {
	t.Helper()
	if r.Code != 0 || r.Err != nil {
		t.Errorf("%s: %v", what, r)
	}
	for _, kv := range strings.Split(r.Stdout, "\x00") {
		name, value, _ := strings.Cut(kv, "=")
		if slices.Contains(dangerous, name) || strings.Contains(value, "evil") {
			t.Errorf("%s: %q arrived inside", what, kv)
		}
	}
}

// TestCallersTerminal: root, or whoever else, runs carrelsh at a terminal of the
// host's. Nothing inside types into it, changes it, or reads from it, neither
// during the session nor afterwards.
func TestCallersTerminal(t *testing.T) {
	f := setup(t)
	path := f.arm(t, f.alice)
	term, err := host.OnTerminal(f.Direct(f.alice, "-l"), 24, 80)
	if err != nil {
		t.Fatal(err)
	}
	defer term.Close()
	master := int(term.Master().Fd())
	number, err := unix.IoctlGetUint32(master, unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	tty := fmt.Sprintf("/dev/pts/%d", number)
	// Held open, as a person's terminal is when carrelsh has ended.
	held, err := os.OpenFile(tty, os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close()
	ask := func(line, pattern string) string {
		t.Helper()
		got, err := term.Ask(line, pattern)
		if err != nil {
			t.Fatal(err)
		}
		return got
	}
	ask("stty -echo; echo re''ady", "(ready)")
	for _, request := range []string{"TIOCSTI", "TIOCSTI\\+1<<32", "TIOCLINUX", "TIOCLINUX\\+1<<32"} {
		if got := ask(path+" terminal; echo do''ne", `(?s)(.*)done`); regexp.MustCompile(request + " ok").MatchString(got) {
			t.Errorf("%s inside: %q", request, got)
		} else if !strings.Contains(got, "TIOCGWINSZ ok") {
			t.Errorf("no terminal was reached: %q; the test proves nothing", got)
		}
	}
	if holders := f.holders(t, tty); len(holders) != 0 {
		t.Errorf("processes of containers hold the caller's terminal: %v", holders)
	}
	ask("setsid sh -c 'sleep 1; exec >~/stolen 2>&1; for f in /proc/[0-9]*/fd/* /dev/tty /dev/pts/*; do (timeout 3 cat <$f) & done; sleep 3' </dev/null >/dev/null 2>&1 & echo le''ft", "(left)")
	if err := term.Send("exit\n"); err != nil {
		t.Fatal(err)
	}
	if !eventually(func() bool { return unix.Kill(term.Pid(), 0) != nil || zombie(term.Pid()) }) {
		t.Fatal("carrelsh did not end")
	}
	modes, err := unix.IoctlGetTermios(int(held.Fd()), unix.TCGETS)
	if err != nil {
		t.Fatal(err)
	}
	if modes.Lflag&unix.ICANON == 0 || modes.Lflag&unix.ECHO == 0 {
		t.Errorf("the caller's terminal is left raw: %#x", modes.Lflag)
	}
	if n, err := unix.IoctlGetInt(int(held.Fd()), unix.TIOCINQ); err != nil || n != 0 {
		t.Errorf("%d bytes were typed into the caller's terminal, %v", n, err)
	}
	if err := term.Send("secret-of-the-caller\n"); err != nil {
		t.Fatal(err)
	}
	if holders := f.holders(t, tty); len(holders) != 0 {
		t.Errorf("after logout, processes of containers hold the caller's terminal: %v", holders)
	}
	// The twin: whoever holds the terminal reads it.
	buf := make([]byte, 64)
	if n, err := held.Read(buf); err != nil || !strings.Contains(string(buf[:n]), "secret") {
		t.Errorf("the caller reads %q, %v; the test proves nothing", buf[:n], err)
	}
	if got := f.in(t, f.alice, "sleep 3; cat ~/stolen"); strings.Contains(got, "secret") {
		t.Errorf("a background process read %q", got)
	}
}

func zombie(pid int) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err != nil || strings.Contains(string(b), ") Z ")
}

// holders lists the processes of containers with a descriptor of a terminal of
// the host's.
func (f *fixture) holders(t *testing.T, tty string) []string {
	t.Helper()
	var want unix.Stat_t
	if err := unix.Stat(tty, &want); err != nil {
		t.Fatal(err)
	}
	inside, err := f.Inside()
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	for _, p := range inside {
		links, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", p.Pid))
		if err != nil {
			t.Fatal(err)
		}
		for _, link := range links {
			var st unix.Stat_t
			if unix.Stat(link, &st) == nil && st.Dev == want.Dev {
				found = append(found, fmt.Sprintf("%d %s", p.Pid, p.Exe))
			}
		}
	}
	return found
}
