package fidelity

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/google/go-cmp/cmp"

	"github.com/carrel-sh/carrel/test/internal/host"
)

var loginRows = []row{
	{"login reads the profile, -c does not; the files are the container's", atMain, profiles},
	{"MOTD and last login as on a plain host", func(d *door) bool { return atMain(d) && d.mode != direct }, motd},
	{"MOTD and last login by Carrel's policy", atMain, greeted},
	{"zsh, fish and dash as login shells", atMain, shells},
	{"a missing shell falls back, and says so on a terminal", atMain, fallback},
	{"umask, ulimit, groups, locale, PATH as on a plain host", atMain, golden},
	{"~/.ssh/rc of the host is passed over in silence; the container's runs inside", func(d *door) bool { return atMain(d) && d.atSSHD() }, sshRC},
}

func profiles(s *scene) error {
	write := []string{".bash_profile", ".bashrc", ".profile"}
	marker := func(name string) string { return "echo in" + name + " \\ \n" }
	for _, name := range write {
		text := "seen=$seen:" + name + "\n"
		if r := s.In(s.user, "cat >"+name, strings.NewReader(text)); r.Code != 0 {
			return fmt.Errorf("%v", r)
		}
		if err := s.oracle.WriteHome(name, text); err != nil {
			return err
		}
		// What the home on the host says must not be read by anybody.
		if err := s.user.WriteHome(name, marker(name)); err != nil {
			return err
		}
	}
	s.later(func() {
		s.in("rm " + strings.Join(write, " "))
		for _, name := range write {
			os.Remove(filepath.Join(s.oracle.Home, name))
			os.Remove(filepath.Join(s.user.Home, name))
		}
	})
	const show = "echo \"$0 seen=$seen home=$HOME pwd=$PWD user=$USER logname=$LOGNAME shell=$SHELL\""
	if err := s.same(strings.Replace(show, "shell=$SHELL", "", 1)); err != nil {
		return err
	}
	if s.mode == passwd || s.mode == forced {
		if err := s.sameWith("", show+"\n"); err != nil {
			return err
		}
	}
	term, err := s.terminal("")
	if err != nil {
		return err
	}
	return ask(term, "echo \"arg0=$0 seen=$seen\"; shopt login_shell", `arg0=(\S+ \S+)\r\nlogin_shell\s+on`, "-bash seen=:.bash_profile")
}

// motd compares what stands above the first prompt. sshd shows the host's
// /etc/motd and the last login, by itself or by PAM, before it starts the login
// shell, and neither for a forced command; su shows neither.
func motd(s *scene) error {
	got, err := s.abovePrompt(s.visit(false, ""))
	if err != nil {
		return err
	}
	want, err := s.abovePrompt(s.visit(true, ""))
	if err != nil {
		return err
	}
	if got != want {
		return fmt.Errorf("above the prompt: %q; the plain account: %q", got, want)
	}
	if _, err := os.Stat("/var/log/lastlog"); err == nil && s.mode != suMode && !strings.Contains(want, "Last login: ") {
		return fmt.Errorf("the plain account is not told of its last login: %q", want)
	}
	return nil
}

// greeted is an account whose rule has both shown. What sshd and PAM show stands
// above them. A command is not greeted.
func greeted(s *scene) error {
	a := s.ruled["greeted"]
	defer s.lock(a)()
	above, err := s.abovePrompt(s.at(a, ""))
	if err != nil {
		return err
	}
	want := `Welcome to \?\[2J the lab\nLast login: \w+ \w+ [ \d]\d \d\d:\d\d:\d\d \d+\n$`
	if s.atSSHD() {
		want = `Welcome to \?\[2J the lab\nLast login: DATE from 127\.0\.0\.1\n$`
	}
	if !regexp.MustCompile(want).MatchString(strings.ReplaceAll(above, "\r", "")) {
		return fmt.Errorf("above the prompt: %q; want %q", above, want)
	}
	if r := s.runs(s.at(a, "echo out"), nil); r.Stdout != "out\n" || r.Stderr != "" {
		return fmt.Errorf("a command: %v", r)
	}
	return nil
}

// abovePrompt logs in twice, for the last login is the one before.
func (s *scene) abovePrompt(v visit) (above string, err error) {
	for range 2 {
		term, err := s.terminals(v)
		if err != nil {
			return "", err
		}
		shown, err := term.Expect(`(?s)^(.*?)[^\n]*\$ $`)
		if err != nil {
			return "", err
		}
		if err := term.Send("exit 0\n"); err != nil {
			return "", err
		}
		if r := term.Wait(); r.Code != 0 {
			return "", fmt.Errorf("%v", r)
		}
		above = regexp.MustCompile(`Last login: .* from`).ReplaceAllString(s.plain(shown[1]), "Last login: DATE from")
	}
	return above, nil
}

// at is a visit of an account that is not the door's own.
func (s *scene) at(a host.Account, command string) visit { return visit{account: a, command: command} }

func shells(s *scene) error {
	for shell, tests := range map[string][][2]string{
		"/usr/bin/zsh":  {{`echo $ZSH_VERSION $SHELL $((2**10))`, "5.9 /usr/bin/zsh 1024"}},
		"/usr/bin/fish": {{`echo $SHELL (math 2^10); set x 1; echo $version | string match -r '^3'`, "/usr/bin/fish 1024\n3"}},
		"/bin/dash":     {{`echo $SHELL $((1+1)) ${BASH_VERSION-none}`, "/bin/dash 2 none"}},
	} {
		if err := s.shell(shell, tests); err != nil {
			return fmt.Errorf("%s: %w", shell, err)
		}
	}
	return nil
}

// shell holds what a shell answers to commands against what it should.
func (s *scene) shell(shell string, tests [][2]string) error {
	account := s.shells[shell]
	defer s.lock(account)()
	s.In(account, "touch .zshrc", nil) // or zsh asks a newcomer questions
	for _, test := range tests {
		if r := s.runs(s.at(account, test[0]), nil); r.Code != 0 || strings.TrimSpace(r.Stdout) != test[1] {
			return fmt.Errorf("%q: %v; want %q", test[0], r, test[1])
		}
	}
	if r := s.runs(s.at(account, "exit 41"), nil); r.Code != 41 {
		return fmt.Errorf("exit 41: %v", r)
	}
	term, err := s.terminals(s.at(account, ""))
	if err != nil {
		return err
	}
	// Not typed before the line editor of fish or zsh has set the terminal up.
	if _, err := term.Expect(`[$%>#] ?(\x1b\S*)*`); err != nil {
		return err
	}
	line := "ps -o args= -p $$; exit 4\r"
	if strings.HasSuffix(shell, "fish") {
		line = "ps -o args= -p $fish_pid; exit 4\r"
	}
	if err := term.Send(line); err != nil {
		return err
	}
	want := "-" + filepath.Base(shell)
	if r := term.Wait(); r.Code != 4 || !strings.Contains(r.Stdout, want+"\r\n") {
		return fmt.Errorf("on a terminal: %v; want %s", r, want)
	}
	return nil
}

func fallback(s *scene) error {
	a := s.shells["/bin/nonesuch"]
	defer s.lock(a)()
	if r := s.runs(s.at(a, "echo $SHELL"), nil); r.Code != 0 || r.Stdout != "/bin/bash\n" || r.Stderr != "" {
		return fmt.Errorf("without a terminal: %v; want bash and no word", r)
	}
	term, err := s.terminals(s.at(a, ""))
	if err != nil {
		return err
	}
	if _, err := term.Expect(`carrel: the wanted shell is not in your container's image; this is /bin/bash\r?\n`); err != nil {
		return err
	}
	return ask(term, "echo $0:$SHELL", `(-bash:/bin/bash)\r`, "-bash:/bin/bash")
}

// sshRC has sshd run ~/.ssh/rc, which it does by the login shell, where the
// host's home has the file, and not for a forced command: it never runs there.
func sshRC(s *scene) error {
	mark := filepath.Join("/tmp", s.user.Name+"-rc")
	defer os.Remove(mark)
	dir := filepath.Join(s.user.Home, ".ssh")
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if err := os.WriteFile(filepath.Join(dir, "rc"), []byte("touch "+mark+"\n"), 0o644); err != nil { //nolint:gosec // for the user to read
		return err
	}
	if r := s.run("echo out"); r.Code != 0 || r.Stdout != "out\n" || r.Stderr != "" {
		return fmt.Errorf("%v", r)
	}
	s.in("mkdir .ssh; echo 'touch ran' >.ssh/rc")
	defer s.in("rm -r .ssh")
	want := "ran\n"
	if s.mode == forced {
		want = ""
	}
	if r := s.run("ls ran 2>/dev/null; rm -f ran " + mark); r.Code != 0 || r.Stdout != want || r.Stderr != "" {
		return fmt.Errorf("with a file inside: %v", r)
	}
	if _, err := os.Stat(mark); !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("it ran on the host: %w", err)
	}
	return nil
}

// probes are what a session is asked for the golden file.
var probes = []struct{ name, command string }{
	{"umask", "umask"},
	{"id", "id"},
	{"id -G", "id -G"},
	{"pwd", "pwd; echo $PWD"},
	{"HOME USER LOGNAME", "echo $HOME $USER $LOGNAME"},
	{"SHELL", "echo $SHELL"},
	{"MAIL", "echo ${MAIL-unset}"},
	{"PATH", "echo $PATH"},
	{"PATH of a login", "bash -lc 'echo $PATH'"},
	{"LANG", "echo ${LANG-unset} ${LC_ALL-unset}"},
	{"locale", "locale"},
	{"TERM", "echo ${TERM-unset}"},
	{"variables", "env | cut -d= -f1 | sort | tr '\\n' ' '"},
	// Signals 32 and 33 are the C library's own; a caller may have left them ignored.
	{"ignored and blocked signals", `while read name mask; do case $name in Sig[BI]*) printf "$name %x\n" $((0x$mask & 0x7fffffff));; esac; done </proc/self/status`},
	{"nice", "nice"},
	{"open descriptors", "ls /proc/self/fd | tr '\\n' ' '"},
	{"hostname resolves", "getent hosts $(hostname) >/dev/null && echo yes"},
	{"/tmp", "stat -c '%a %U' /tmp /var/tmp /dev/shm | tr '\\n' ' '"},
	{"devices", "for d in null zero full random urandom tty ptmx; do test -c /dev/$d && echo $d; done | tr '\\n' ' '; ls -d /dev/fd /dev/std*"},
	{"sudo and su", "test -u /bin/su && echo set-uid"},
	{"process substitution", "cat <(echo yes); echo there >/dev/stderr"},
}

// unlike says why a probe may differ from the oracle.
var unlike = map[string]string{
	"MAIL":                 "a session has the same in every mode",
	"PATH":                 "a session has the same in every mode",
	"variables":            "a session has the same in every mode",
	"open descriptors":     "what the caller left open is not passed on",
	"process substitution": "the streams belong to the user, so that /dev/stderr can be opened",
}

// golden compares the probes with the oracle's and holds the verdict against a
// golden file of the mode. Values are not in it, for they are the machine's.
func golden(s *scene) error {
	got, want := s.probe(false), s.probe(true)
	var b strings.Builder
	var errs []error
	for _, p := range probes {
		reason, ok := unlike[p.name]
		switch {
		case got[p.name] == want[p.name]:
			fmt.Fprintf(&b, "%s: same\n", p.name)
		case ok:
			fmt.Fprintf(&b, "%s: differs: %s\n", p.name, reason)
		default:
			errs = append(errs, fmt.Errorf("%s: %q; the plain account: %q", p.name, got[p.name], want[p.name]))
		}
	}
	if err := errors.Join(append(errs, s.limits(&b))...); err != nil {
		return err
	}
	path := filepath.Join("testdata", "login-"+strings.Fields(s.mode)[0]+".golden")
	if *update {
		return os.WriteFile(path, []byte(b.String()), 0o644) //nolint:gosec // a file of the repository
	}
	committed, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if diff := cmp.Diff(string(committed), b.String()); diff != "" {
		return fmt.Errorf("%s (-committed +measured):\n%s", path, diff)
	}
	return nil
}

// ownLimits are those that a container sets: soft, hard and why.
var ownLimits = map[string][3]string{
	"core file size": {"0", "0", "the kernel would hand a core file to the host's core_pattern"},
	"open files":     {"1024", "", "systemd's, whatever the daemon that let the user in has"},
}

// limits writes how each of the limits that ulimit(1) shows compares. They are
// a container's, the same in every session, so they come from carreld and not
// from sshd or PAM's limits.conf; most hosts have the same in all of these.
func (s *scene) limits(b *strings.Builder) error {
	const command = "cat /proc/self/limits; ulimit -a >/dev/null"
	inside, oracle := limitsOf(s.run(command).Stdout), limitsOf(s.runs(s.visit(true, command), nil).Stdout)
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/limits", s.Daemon().Pid))
	daemon := limitsOf(string(text))
	if err != nil || len(inside) != 16 || len(daemon) != 16 || len(oracle) != 16 {
		return fmt.Errorf("%d, %d and %d limits; want 16; %w", len(inside), len(oracle), len(daemon), err)
	}
	for _, name := range slices.Sorted(maps.Keys(inside)) {
		own, ok := ownLimits[name]
		soft, hard, _ := strings.Cut(inside[name], " ")
		switch {
		case ok && soft == own[0] && (hard == own[1] || own[1] == ""):
			fmt.Fprintf(b, "ulimit, %s: the container's, %s: %s\n", name, own[0], own[2])
		case !ok && (inside[name] == oracle[name] || inside[name] == daemon[name]):
			fmt.Fprintf(b, "ulimit, %s: same, or carreld's where the host gives the plain account another one\n", name)
		default:
			return fmt.Errorf("limit %q: %q; carreld has %q, the plain account %q", name, inside[name], daemon[name], oracle[name])
		}
	}
	return nil
}

// limitsOf reads /proc/PID/limits, whose columns have fixed places (proc(5)).
func limitsOf(text string) map[string]string {
	all := make(map[string]string)
	for line := range strings.Lines(text) {
		if name, ok := strings.CutPrefix(line, "Max "); ok && len(line) > 67 {
			all[strings.ToLower(strings.TrimSpace(name[:21]))] = strings.TrimSpace(line[26:46]) + " " + strings.TrimSpace(line[47:67])
		}
	}
	return all
}

// probe runs all probes in one session, whose caller has a descriptor too many.
func (s *scene) probe(oracle bool) map[string]string {
	var command strings.Builder
	for _, p := range probes {
		fmt.Fprintf(&command, "( %s ) 2>&1; echo '<<%s>>'\n", p.command, p.name)
	}
	answers := make(map[string]string)
	cmd := s.open(s.visit(oracle, command.String()))
	cmd.Stdin = bytes.NewReader(nil)
	cmd.ExtraFiles = []*os.File{os.Stderr} // what a caller may leave open
	rest := s.plain(host.Run(cmd).Stdout)
	for _, p := range probes {
		var answer string
		answer, rest, _ = strings.Cut(rest, "<<"+p.name+">>\n")
		answers[p.name] = strings.TrimSpace(answer)
	}
	return answers
}
