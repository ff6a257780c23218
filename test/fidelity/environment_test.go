package fidelity

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"time"

	"github.com/carrel-sh/carrel/test/internal/host"
)

var environmentRows = []row{
	{"LANG, LC_*, TZ, COLORTERM arrive; nothing else does", func(d *door) bool { return atMain(d) && d.mode != suMode }, allowList},
	{"SSH_CONNECTION, SSH_CLIENT, SSH_TTY", func(d *door) bool { return atMain(d) && d.atSSHD() }, sshVariables},
	{"policy adds variables and overrides the user's", atMain, policyVariables},
	{"60 dangerous names reach nobody", atMain, dangerous},
	{"many users and logins at once: nothing crosses over", atMain, crowd},
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

func policyVariables(s *scene) error {
	a := s.ruled["env"]
	defer s.lock(a)()
	v := s.at(a, `echo "$LANG/$EDITOR/$GREETING/$HOME"`)
	v.env = []string{"LANG=en_US.UTF-8", "EDITOR=/bin/ed"}
	if r := s.runs(v, nil); r.Stdout != "de_DE.UTF-8/vi/good day/"+a.Home+"\n" {
		return fmt.Errorf("%v", r)
	}
	return nil
}

// hostileNames are sixty by which programs have been made to run, load or read
// what their caller wanted. GOMEMLIMIT is not among them: the runtime of Go
// ends carrelsh over a value that is not a size, before it asks for anything.
const hostileNames = `LD_PRELOAD LD_LIBRARY_PATH LD_AUDIT LD_DEBUG_OUTPUT LD_ORIGIN_PATH LD_PROFILE BASH_ENV ENV BASHOPTS
	PS4 PROMPT_COMMAND CDPATH GLOBIGNORE FPATH ZDOTDIR TERMINFO TERMINFO_DIRS TERMCAP TERMPATH LOCPATH NLSPATH LOCALDOMAIN
	RES_OPTIONS HOSTALIASES RESOLV_HOST_CONF GCONV_PATH GETCONF_DIR MALLOC_TRACE TMPDIR TZDIR GODEBUG GOTRACEBACK GOGC
	_LIBCONTAINER_INITPIPE _LIBCONTAINER_LOGPIPE LISTEN_FDS LISTEN_PID NOTIFY_SOCKET XDG_RUNTIME_DIR DBUS_SESSION_BUS_ADDRESS
	SSH_ASKPASS DISPLAY XAUTHORITY PYTHONPATH PYTHONSTARTUP PERL5LIB PERL5OPT RUBYLIB RUBYOPT NODE_OPTIONS JAVA_TOOL_OPTIONS
	GIT_SSH_COMMAND GIT_EXEC_PATH EDITOR VISUAL PAGER LESSOPEN LESSCLOSE MANPAGER BROWSER`

const payloadMark = "evil-payload"

// dangerous sends the names themselves: sshd accepts all, and su, unless it is
// told to make a new environment, takes what its caller has.
func dangerous(s *scene) error {
	var bad []string
	for _, name := range strings.Fields(hostileNames) {
		bad = append(bad, name+"=/"+payloadMark)
	}
	if len(bad) != 60 {
		return fmt.Errorf("%d names", len(bad))
	}
	bad = append(bad, "LC_ALL=/"+payloadMark, "TZ=:/"+payloadMark)
	visit := func(oracle bool) visit {
		v := s.visit(oracle, "env; cat /proc/1/environ 2>/dev/null; true")
		if s.atSSHD() {
			v.set = bad
		} else {
			v.env = bad
		}
		return v
	}
	var r host.Result
	for tries := 1; ; tries++ {
		if r := s.Carrel("stop", s.user.Name); r.Code != 0 { // the first login starts everything
			return fmt.Errorf("%v", r)
		}
		runtime := s.watchRuntime()
		r = s.runs(visit(false), nil)
		if seen, bad := runtime(); bad > 0 || (seen == 0 && tries == 20) {
			return fmt.Errorf("%d of %d environments of carrel-runtime had it", bad, seen)
		} else if seen > 0 {
			break
		}
	}
	if s.mode == suMode {
		r.Stderr = "" // the dynamic linker complains when it starts su itself
	}
	if r.Code != 0 || strings.Contains(r.Stdout+r.Stderr, payloadMark) {
		return fmt.Errorf("%v", r)
	}
	// The twin: without Carrel all of them arrive, except where su is in between.
	plain := s.runs(visit(true), nil)
	if got := strings.Count(plain.Stdout, "=/"+payloadMark); s.mode != suMode && got < len(strings.Fields(hostileNames)) {
		return fmt.Errorf("%d of %d names reach the plain account: %v", got, len(bad), plain)
	}
	return s.environClean()
}

// watchRuntime looks into the environment of every carrel-runtime, which lives
// for a moment and may be missed, until the function that it returns is called.
// That says how many it saw, and how often the payload was in one.
func (s *scene) watchRuntime() (result func() (seen, bad int)) {
	over, told := make(chan struct{}), make(chan [2]int)
	go func() {
		runtimes := make(map[string]bool) // by pid: it is one
		seen, bad := 0, 0
		for {
			select {
			case <-over:
				told <- [2]int{seen, bad}
				return
			case <-time.After(time.Millisecond):
			}
			pids, _ := filepath.Glob("/proc/[0-9]*")
			for _, pid := range pids {
				is, known := runtimes[pid]
				if exe, _ := os.Readlink(pid + "/exe"); !known || exe == s.Path("carrel-runtime") != is {
					runtimes[pid] = exe == s.Path("carrel-runtime")
				} else {
					continue
				}
				if env, err := os.ReadFile(pid + "/environ"); runtimes[pid] && err == nil {
					seen++
					bad += strings.Count(string(env), payloadMark)
				}
			}
		}
	}()
	return func() (seen, bad int) {
		close(over)
		counts := <-told
		return counts[0], counts[1]
	}
}

// environClean looks into the environment of all of Carrel's processes.
func (s *scene) environClean() error {
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
	slots := make(chan struct{}, 8)
	for i := range len(users) * s.crowdLogins() {
		wg.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			a := users[i%len(users)]
			token := fmt.Sprintf("token%s%05d", regexp.MustCompile(`\W`).ReplaceAllString(s.mode, ""), i)
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

// crowdUsers is how many users log in at each door.
func crowdUsers() int {
	if long() {
		return 500
	}
	return 20
}

// crowdLogins is how often each of them does: with CARREL_LONG, 50 times in
// all, most often where a login costs the machine least.
func (s *scene) crowdLogins() int {
	switch {
	case !long():
		return 1
	case s.mode == direct:
		return 36
	case s.mode == suMode:
		return 6
	}
	return 2 // at four doors
}

// crowd returns the accounts, which the first to ask makes.
func (f *fixture) crowd() ([]host.Account, error) {
	defer f.lock(host.Account{Name: "the crowd"})()
	for len(f.many) < crowdUsers() {
		a, err := f.Account(fmt.Sprintf("m%02d", len(f.many)), "")
		if err != nil {
			return nil, err
		}
		f.many = append(f.many, a)
	}
	return f.many, nil
}
