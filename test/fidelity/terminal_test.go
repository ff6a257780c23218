package fidelity

import (
	"errors"
	"fmt"
	"strings"

	"github.com/carrel-sh/carrel/test/internal/host"
)

// terminalRows are about terminals without a program that draws on them.
var terminalRows = []row{
	{"tty names a terminal that exists inside and is the user's", everywhere, ttyExists},
	{"window size before the first prompt, and on resize", atMain, sizes},
	{"a storm of resizes", atMain, storm},
	{"terminal modes as on a plain host (stty -a)", atMain, modes},
	{"Ctrl-P, Ctrl-Q, Ctrl-], ~. reach the program", atMain, keys},
	{"Ctrl-C, Ctrl-Z, fg, bg, jobs, stty", atMain, jobControl},
	{"TERM: known, dumb, unknown", atMain, termNames},
	{"a command on a terminal", everywhere, commandOnTerminal},
	{"UTF-8 typed and shown", atMain, utf8},
	{"a terminal on stdin alone, or on stdout alone", func(d *door) bool { return d.client == local }, partial},
	{"script, mesg and wall are harmless", atMain, oldTools},
}

// ask types a line and returns what the pattern's last group matched.
func ask(term *host.Terminal, line, pattern, want string) error {
	got, err := term.Ask(line, pattern)
	if err == nil && got != want {
		err = fmt.Errorf("%q: %q; want %q", line, got, want)
	}
	return err
}

func ttyExists(s *scene) error {
	if s.client == openSSH { // su leaves the terminal to its old owner
		return s.sameOnTerminal("stat -c '%a %U %F' $(tty); test -O $(tty) && test -t 0 && test -t 2 && echo mine")
	}
	term, err := s.terminal("tty; test -O $(tty) && test -t 0 && test -t 1 && echo mi''ne")
	if err != nil {
		return err
	}
	_, err = term.Expect(`/dev/pts/\d+\r*\n(?s:.*)mine\r*\n`)
	return err
}

// sameOnTerminal is same for a command that has a terminal.
func (s *scene) sameOnTerminal(command string, env ...string) error {
	var results [2]host.Result
	for i := range results {
		v := s.visit(i == 1, command)
		v.env = env
		term, err := s.terminals(v)
		if err != nil {
			return err
		}
		results[i] = term.Wait()
	}
	got, want := results[0], results[1]
	if got.Err != nil || got.Code != want.Code || s.plain(got.Stdout) != s.plain(want.Stdout) {
		return fmt.Errorf("%q: %v; the plain account: %v", command, got, want)
	}
	return nil
}

func sizes(s *scene) error {
	term, err := s.terminal("")
	if err != nil {
		return err
	}
	// The very first thing typed, before any prompt was waited for.
	if err := ask(term, "stty size", `[\n\r](\d+ \d+)\r`, "47 131"); err != nil {
		return err
	}
	// Not bash is told: its trap may run in the middle of what it reads.
	const waits = `sh -c 'trap "echo win""ch; exit" WINCH; echo re""ady; while :; do sleep 0.05; done'; stty size`
	if err := ask(term, waits, `(ready)\r`, "ready"); err != nil {
		return err
	}
	if err := term.Resize(50, 140); err != nil {
		return err
	}
	_, err = term.Expect(`winch\r\n50 140\r`)
	return err
}

func storm(s *scene) error {
	term, err := s.terminal("")
	if err != nil {
		return err
	}
	if err := ask(term, "echo r''eady", `(ready)\r`, "ready"); err != nil {
		return err
	}
	for i := range uint16(500) {
		if err := term.Resize(20+i%40, 60+i%100); err != nil {
			return err
		}
	}
	if err := term.Resize(51, 141); err != nil {
		return err
	}
	if err := ask(term, "until [ \"$(stty size)\" = '51 141' ]; do sleep 0.1; done; echo re''sized", `(resized)\r`, "resized"); err != nil {
		return err
	}
	if err := term.Send("exit 5\n"); err != nil {
		return err
	}
	if r := term.Wait(); r.Code != 5 {
		return fmt.Errorf("%v; want exit status 5", r)
	}
	return nil
}

func modes(s *scene) error {
	return s.sameOnTerminal("stty -a")
}

func keys(s *scene) error {
	term, err := s.terminal("stty raw -echo; printf GO; head -c 16 | od -An -tx1; stty sane; echo E''ND")
	if err != nil {
		return err
	}
	if _, err := term.Expect("GO"); err != nil {
		return err
	}
	sent := "\x10\x10\x11\x11\x1d\x1d\r~.\x13\x03\x1a\x04\x1c\x16\xff"
	if err := term.Send(sent); err != nil {
		return err
	}
	got, err := term.Expect(`((?: [0-9a-f]{2}){16})`)
	if err != nil {
		return err
	}
	if want := fmt.Sprintf(" % x", sent); got[1] != want {
		return fmt.Errorf("sent%s, the program got%s", want, got[1])
	}
	_, err = term.Expect("END")
	return err
}

func jobControl(s *scene) error {
	term, err := s.terminal("")
	if err != nil {
		return err
	}
	steps := []struct{ send, expect string }{
		{"echo r''eady\n", `ready\r`},
		{"cat\n", `cat\r\n`},
		{"line\n", `line\r\n`}, // twice, if the terminal was cat's when it was typed
		{"\x1a", `Stopped\s+cat`},
		{"jobs\n", `\[1\]\+\s+Stopped\s+cat`},
		{"fg\n", `cat\r\n`},
		{"again\n", `again\r\n`},
		{"\x04", `\$ `},
		{"echo st=$?\n", `st=0\r`},
		{"sh -c 'echo r\"\"dy; exec sleep 5031'\n", `rdy\r`},
		{"\x1a", `Stopped\s+sh -c`},
		{"bg\n", `sleep 5031' &`},
		{"jobs\n", `Running\s+sh -c`},
		{"fg\n", `sleep 5031'\r\n`},
		{"\x03", `\$ `},
		{"echo st=$?\n", `st=130\r`},
		{"sh -c 'echo r\"\"dy; exec cat'\n", `rdy\r`},
		{"\x1c", `\$ `},
		{"echo st=$?\n", `st=131\r`},
		{"stty -echo; echo si''lent\n", `silent\r`},
		{"echo hid''den\n", `\A[^']*hidden\r`},
		{"stty echo; stty -a | grep -c '^isig'\n", `[\r\n]1\r`},
		{"exit 6\n", ``},
	}
	// bash shows the command of fg before the job has the terminal.
	const hasTerminal = `ps -eo pgid=,tpgid=,stat=,args= | awk '$1 == $2 && $3 !~ /T/ && $4 == "sleep"' | grep -c 5031`
	for _, step := range steps {
		if step.send == "\x03" && !eventually(func() bool { return s.in(hasTerminal) == "1" }) {
			return errors.New("fg does not give the job the terminal")
		}
		if err := term.Send(step.send); err != nil {
			return err
		}
		if _, err := term.Expect(step.expect); err != nil {
			return fmt.Errorf("after %q: %w", step.send, err)
		}
	}
	if r := term.Wait(); r.Code != 6 {
		return fmt.Errorf("%v; want exit status 6", r)
	}
	return nil
}

func termNames(s *scene) error {
	for _, name := range []string{"xterm-256color", "dumb", "carrel-unknown", "vt100"} {
		if err := s.sameOnTerminal("echo $TERM; tput cols; ls --color=auto -d /; tput bold; echo $?", "TERM="+name); err != nil {
			return err
		}
	}
	return nil
}

func commandOnTerminal(s *scene) error {
	err := s.sameOnTerminal("test -t 0 && test -t 1 && test -t 2 && echo all; stty size; exit 3")
	if err != nil || !atMain(s.door) {
		return err
	}
	return errors.Join(s.sameOnTerminal("echo error >&2; echo $-; shopt login_shell; kill -TERM $$"))
}

func utf8(s *scene) error {
	term, err := s.terminal("")
	if err != nil {
		return err
	}
	if err := term.Send("echo 'grüße 日本 🖖' | tr -d \"'\"\n"); err != nil {
		return err
	}
	if _, err = term.Expect("[\n\r]grüße 日本 🖖\r"); err != nil {
		return err
	}
	return s.same("printf 'grüße 日本 🖖' | wc -mc")
}

// partial has a terminal as one stream and a file as the other.
func partial(s *scene) error {
	for _, where := range []string{"stdin", "stdout"} {
		var shown [2]string
		for i := range shown {
			cmd := s.open(s.visit(i == 1, "test -t 0; a=$?; test -t 1; echo $a$?; exit 3"))
			inner := strings.Join(append([]string{cmd.Path}, quote(cmd.Args[1:])...), " ")
			redirect := " </dev/null"
			if where == "stdin" {
				redirect = " | cat"
			}
			cmd.Path, cmd.Args = "/bin/sh", []string{"sh", "-c", inner + redirect}
			term, err := host.OnTerminal(cmd, 47, 131)
			if err != nil {
				return err
			}
			s.later(func() { term.Close() })
			shown[i] = term.Wait().Stdout
		}
		if shown[0] != shown[1] {
			return fmt.Errorf("a terminal on %s alone: %q; the plain account: %q", where, shown[0], shown[1])
		}
	}
	return nil
}

func quote(args []string) []string {
	var quoted []string
	for _, a := range args {
		quoted = append(quoted, "'"+strings.ReplaceAll(a, "'", `'\''`)+"'")
	}
	return quoted
}

// oldTools are made for hosts with many people.
func oldTools(s *scene) error {
	term, err := s.terminal("")
	if err != nil {
		return err
	}
	steps := []struct{ line, pattern string }{
		{"script -qc 'tty; stty size' typescript; echo st=$?", `/dev/pts/\d+\r\n47 131\r\n(?s:.*)st=0\r`},
		{"mesg n; mesg; mesg y; mesg; echo st=$?", `is n\r\nis y\r\nst=0\r`},
		{"echo hello | wall; echo st=$?", `st=\d+\r`},
		{"who; w -h; last -n1 2>/dev/null | head -1; echo do''ne", `done\r`},
	}
	for _, step := range steps {
		if _, err := term.Ask(step.line, step.pattern); err != nil {
			return err
		}
	}
	return nil
}
