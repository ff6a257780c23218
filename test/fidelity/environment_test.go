//go:build fidelity

package fidelity

import (
	"errors"
	"fmt"
	"os"
	"regexp"
	"strings"
	"sync"

	"github.com/carrel-sh/carrel/test/internal/host"
)

var environmentRows = []row{
	{"LANG, LC_*, TZ, COLORTERM arrive; nothing else does", func(d *door) bool { return d.native() && d.mode != suMode }, allowList},
	{"SSH_CONNECTION, SSH_CLIENT, SSH_TTY", atSSH, sshVariables},
	{"dangerous names reach nobody", atNative, dangerous},
	{"many users and logins at once: nothing crosses over", atNative, crowd},
}

func allowList(s *scene) error {
	v := s.visit(false, `echo "$LANG $LC_TIME $TZ $COLORTERM"; env | grep -c CARREL_HOSTILE`)
	v.env = []string{"LANG=en_US.UTF-8", "LC_TIME=de_DE.UTF-8", "TZ=Europe/Berlin", "COLORTERM=truecolor", "CARREL_HOSTILE_1=x"}
	if r := s.runs(v, nil); r.Stdout != "en_US.UTF-8 de_DE.UTF-8 Europe/Berlin truecolor\n0\n" {
		return fmt.Errorf("%v", r)
	}
	v.env = []string{"LANG=../../x", "LC_TIME=$(id)", "TZ=:/etc/shadow", "COLORTERM=`id`"}
	v.command = `echo "$LC_TIME|$TZ|$COLORTERM|$(env | grep -c -e '\.\./')"`
	if r := s.runs(v, nil); r.Stdout != "|||0\n" {
		return fmt.Errorf("bad values: %v", r)
	}
	return nil
}

func sshVariables(s *scene) error {
	term, err := s.terminal(`echo "$SSH_CONNECTION/$SSH_CLIENT/$SSH_TTY/$(tty)/${SSH_ORIGINAL_COMMAND-unset}/"`)
	if err != nil {
		return err
	}
	got, err := term.Expect(`127\.0\.0\.1 (\d+) 127\.0\.0\.1 (\d+)/127\.0\.0\.1 (\d+) (\d+)/(/dev/pts/\d+)/(/dev/pts/\d+)/unset/`)
	if err != nil {
		return err
	}
	if port := fmt.Sprint(s.tcp()); got[1] != got[3] || got[2] != port || got[4] != port || got[5] != got[6] {
		return fmt.Errorf("%q; the port is %s", got, port)
	}
	if r := s.run("echo ${SSH_TTY-unset}"); r.Stdout != "unset\n" {
		return fmt.Errorf("without a terminal: %v", r)
	}
	return nil
}

// hostileNames are those by which programs have been made to run, load or read
// what their caller wanted. GOMEMLIMIT is not among them: the runtime of Go
// ends carrelsh over a value that is not a size, before it asks for anything.
const hostileNames = `LD_PRELOAD LD_LIBRARY_PATH LD_AUDIT LD_DEBUG_OUTPUT LD_ORIGIN_PATH LD_PROFILE BASH_ENV ENV SHELLOPTS BASHOPTS
	PS4 PROMPT_COMMAND IFS CDPATH GLOBIGNORE FPATH ZDOTDIR TERMINFO TERMINFO_DIRS TERMCAP TERMPATH LOCPATH NLSPATH LOCALDOMAIN
	RES_OPTIONS HOSTALIASES RESOLV_HOST_CONF GCONV_PATH GETCONF_DIR MALLOC_TRACE TMPDIR TZDIR GODEBUG GOTRACEBACK GOGC
	_LIBCONTAINER_INITPIPE _LIBCONTAINER_LOGPIPE LISTEN_FDS LISTEN_PID NOTIFY_SOCKET XDG_RUNTIME_DIR DBUS_SESSION_BUS_ADDRESS
	SSH_ASKPASS DISPLAY XAUTHORITY PYTHONPATH PYTHONSTARTUP PERL5LIB PERL5OPT RUBYLIB RUBYOPT NODE_OPTIONS JAVA_TOOL_OPTIONS
	GIT_SSH_COMMAND GIT_EXEC_PATH EDITOR PAGER LESSOPEN LESSCLOSE`

const payloadMark = "evil-payload"

func dangerous(s *scene) error {
	if r := s.Carrel("stop", s.user.Name); r.Code != 0 { // the first login starts everything
		return fmt.Errorf("%v", r)
	}
	v := s.visit(false, "env; cat /proc/1/environ 2>/dev/null; true")
	for _, name := range strings.Fields(hostileNames) {
		if s.mode != direct { // what the client sends, or su is told
			name = "CARREL_HOSTILE_" + name
		}
		v.env = append(v.env, name+"=/"+payloadMark)
	}
	v.env = append(v.env, "LC_ALL=/"+payloadMark, "TZ=:/"+payloadMark)
	r := s.runs(v, nil)
	if r.Code != 0 || strings.Contains(r.Stdout+r.Stderr, payloadMark) {
		return fmt.Errorf("%v", r)
	}
	all, err := host.Processes()
	if err != nil {
		return err
	}
	for _, p := range all {
		if p.Exe != s.Path("carrel-init") && p.Exe != s.Path("carreld") && p.Exe != s.Path("carrel-runtime") {
			continue
		}
		if env, _ := os.ReadFile(fmt.Sprintf("/proc/%d/environ", p.Pid)); strings.Contains(string(env), payloadMark) {
			return fmt.Errorf("%s has it in its environment", p.Exe)
		}
	}
	return nil
}

// crowdUsers log in at each of the four doors several times each; both numbers
// are scaled to two cores.
const crowdUsers = 20

func crowdLogins() int {
	if long() {
		return 20
	}
	return 3
}

// crowd has every user log in several times at once, each with a token on
// stdin, one as a variable and one as its status.
func crowd(s *scene) error {
	users, err := s.crowd()
	if err != nil {
		return err
	}
	var wg sync.WaitGroup
	var mu sync.Mutex
	var errs []error
	slots := make(chan struct{}, 4)
	for i := range crowdUsers * crowdLogins() {
		wg.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			a := users[i%len(users)]
			token := fmt.Sprintf("token%s%04d", regexp.MustCompile(`\W`).ReplaceAllString(s.mode, ""), i)
			v := visit{account: a, command: fmt.Sprintf(`read x; echo "$x $(id -un) ${LC_TOKEN-%s}"; echo "$x" >&2; sleep 0.1; exit %d`, token, 1+i%100)}
			if s.mode != suMode {
				v.env = []string{"LC_TOKEN=" + token}
			}
			r := s.runs(v, strings.NewReader(token+"\n"))
			if want := token + " " + a.Name + " " + token + "\n"; r.Stdout != want || r.Stderr != token+"\n" || r.Code != 1+i%100 {
				mu.Lock()
				errs = append(errs, fmt.Errorf("%v; want %q and status %d", r, want, 1+i%100))
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// crowd returns the accounts, which the first to ask makes.
func (f *fixture) crowd() ([]host.Account, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for len(f.many) < crowdUsers {
		a, err := f.Account(fmt.Sprintf("m%02d", len(f.many)), "")
		if err != nil {
			return nil, err
		}
		f.many = append(f.many, a)
	}
	return f.many, nil
}
