package session

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestFilterEnvKeeps(t *testing.T) {
	keep := []string{
		"TERM=xterm-256color", "LANG=de_DE.UTF-8", "LC_ALL=C", "LC_TIME=en_GB@euro", "TZ=Europe/Berlin", "TZ=<+03>-3",
		"COLORTERM=truecolor", "SSH_CONNECTION=192.0.2.1 5000 2001:db8::1 22", "SSH_CLIENT=fe80::1%eth0 5 22",
	}
	for _, kv := range keep {
		if got := FilterEnv([]string{kv}); len(got) != 1 || got[0] != kv {
			t.Errorf("FilterEnv(%q) = %q", kv, got)
		}
	}
	got := FilterEnv([]string{"TERM=a", "LANG=C", "TERM=b"})
	if diff := cmp.Diff([]string{"TERM=b", "LANG=C"}, got); diff != "" {
		t.Errorf("of a name given twice the last counts (-want +got):\n%s", diff)
	}
}

// The names by which programs have been made to run, load or read what their
// caller wanted, each with a payload, and good names with bad values.
func TestFilterEnvDrops(t *testing.T) {
	names := strings.Fields(`LD_PRELOAD LD_LIBRARY_PATH LD_AUDIT LD_DEBUG LD_DEBUG_OUTPUT LD_ORIGIN_PATH LD_PROFILE
		BASH_ENV ENV SHELLOPTS BASHOPTS PS1 PS4 PROMPT_COMMAND IFS CDPATH GLOBIGNORE BASH_FUNC_x%% FPATH ZDOTDIR
		PATH HOME USER LOGNAME SHELL MAIL TERMINFO TERMINFO_DIRS TERMCAP TERMPATH LOCPATH NLSPATH LOCALDOMAIN RES_OPTIONS
		HOSTALIASES RESOLV_HOST_CONF GCONV_PATH GETCONF_DIR MALLOC_TRACE MALLOC_CHECK_ TMPDIR TZDIR
		GODEBUG GOTRACEBACK GOMAXPROCS GOGC GOMEMLIMIT _LIBCONTAINER_INITPIPE _LIBCONTAINER_LOGPIPE LISTEN_FDS LISTEN_PID
		NOTIFY_SOCKET XDG_RUNTIME_DIR DBUS_SESSION_BUS_ADDRESS SSH_AUTH_SOCK SSH_ASKPASS SSH_ORIGINAL_COMMAND DISPLAY
		XAUTHORITY PYTHONPATH PYTHONSTARTUP PERL5LIB PERL5OPT RUBYLIB RUBYOPT NODE_OPTIONS JAVA_TOOL_OPTIONS
		GIT_SSH_COMMAND GIT_EXEC_PATH EDITOR PAGER LESSOPEN LESSCLOSE LC_ lc_all`)
	for _, name := range names {
		if got := FilterEnv([]string{name + "=x"}); len(got) != 0 {
			t.Errorf("FilterEnv(%s) = %q", name, got)
		}
	}
	for _, kv := range []string{
		"TERM=../../tmp/x", "TERM=.x", "TERM=", "TERM=a b", "TERM=/etc/x", "TZ=:/etc/shadow", "TZ=/etc/shadow", "TZ=a/../b",
		"LANG=../../x", "LANG=a\nb", "LANG=\x1b[31m", "LC_ALL=%s%n/", "LC_ALL=() { :;}; id", "LANG=" + strings.Repeat("x", 5000),
		"SSH_CLIENT=$(id)", "COLORTERM=`id`", "noequals", "=x", "",
	} {
		if got := FilterEnv([]string{kv}); len(got) != 0 {
			t.Errorf("FilterEnv(%q) = %q", kv, got)
		}
	}
}

func TestFailuresAreDocumented(t *testing.T) {
	for f := None + 1; int(f) < len(verdicts); f++ {
		if f.Status() == 0 || f.Sentence("x") == "" || strings.Contains(f.Sentence("x"), "%") {
			t.Errorf("failure %d: status %d, sentence %q", f, f.Status(), f.Sentence("x"))
		}
	}
	if got := Failure(200).Status(); got != Internal.Status() {
		t.Errorf("status of an unknown failure = %d", got)
	}
	if got, want := NoImage.Sentence("tools"), "your container's image (tools) is not installed; please tell the administrator"; got != want {
		t.Errorf("Sentence = %q; want %q", got, want)
	}
}
