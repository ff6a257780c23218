package fidelity

import (
	"fmt"
	"os/exec"
	"strings"
	"time"

	"github.com/carrel-sh/carrel/test/internal/host"
)

// programRows are about programs that draw on a terminal. A tmux of the host's
// is the terminal emulator: what it shows is what a person would see.
var programRows = []row{
	{"vim", atMain, vim},
	{"less", atMain, less},
	{"htop", atMain, htop},
	{"tmux", atMain, tmux},
	{"screen", atMain, gnuScreen},
	{"24-bit colour and wide characters on the screen", atMain, colour},
}

// A screen is a login in a window of a terminal emulator.
type screen struct {
	socket string
}

func (s *scene) screen() (*screen, error) {
	cmd := s.open(visit{account: s.user, tty: true})
	line := "exec " + strings.Join(quote(cmd.Args), " ")
	switch {
	case s.client == goCrypto:
		line = "exec env " + clientEnv + "=1" + strings.TrimPrefix(line, "exec")
	case s.mode == direct:
		line = fmt.Sprintf("exec setpriv --reuid %d --regid %d --clear-groups %s -l", s.user.UID, s.user.GID, s.Path("carrelsh"))
	}
	// A server that was told to end may take a moment to, so names are new.
	w := &screen{socket: fmt.Sprintf("%s-%d", s.user.Name, s.screens.Add(1))}
	s.later(func() { w.tmux("kill-server") })
	if r := w.tmux("-f", "/dev/null", "new-session", "-d", "-x", "100", "-y", "30", line); r.Code != 0 {
		return nil, fmt.Errorf("%v", r)
	}
	return w, w.typed("PS1='%% '; clear; echo r''eady\n", "ready")
}

func (w *screen) tmux(args ...string) host.Result {
	cmd := alone(exec.Command("tmux", append([]string{"-u", "-L", w.socket}, args...)...))
	cmd.Env = clientEnviron([]string{"TMUX_TMPDIR=/tmp"})
	return host.Run(cmd)
}

// shows returns what is on the screen.
func (w *screen) shows(options ...string) string {
	return w.tmux(append([]string{"capture-pane", "-p"}, options...)...).Stdout
}

// typed types text and waits until the screen shows all of want.
func (w *screen) typed(text string, want ...string) error {
	for _, part := range strings.SplitAfter(text, "\n") {
		if line, enter := strings.CutSuffix(part, "\n"); line != "" || enter {
			if line != "" {
				w.tmux("send-keys", "-l", "--", line)
			}
			if enter {
				w.tmux("send-keys", "Enter")
			}
		}
	}
	return w.expect(want...)
}

// press sends keys by tmux's names.
func (w *screen) press(keys ...string) { w.tmux(append([]string{"send-keys", "--"}, keys...)...) }

func (w *screen) expect(want ...string) error {
	for _, text := range want {
		if !eventually(func() bool { return strings.Contains(w.shows(), text) }) {
			return fmt.Errorf("no %q on the screen:\n%s", text, strings.TrimRight(w.shows(), "\n"))
		}
	}
	return nil
}

func vim(s *scene) error {
	w, err := s.screen()
	if err != nil {
		return err
	}
	if err := w.typed("rm -f letter; vim -u NONE -N --cmd 'set encoding=utf-8' letter\n", "~", "\"letter\" [New]"); err != nil {
		return err
	}
	if err := w.typed("iDear Grüße", "Dear Grüße", "-- INSERT --"); err != nil {
		return err
	}
	w.press("Escape")
	if err := w.typed("yy20p", "more lines"); err != nil {
		return err
	}
	w.tmux("resize-window", "-x", "90", "-y", "20")
	resized := eventually(func() bool {
		w.press("Escape")
		_ = w.typed(":set columns? lines?\n")
		time.Sleep(100 * time.Millisecond)
		shown := w.shows()
		w.press("Enter")
		return strings.Contains(shown, "columns=90") && strings.Contains(shown, "lines=20")
	})
	if !resized {
		return fmt.Errorf("vim did not see the resize:\n%s", w.shows())
	}
	w.press("Escape")
	if err := w.typed(":wq\n", "%"); err != nil {
		return err
	}
	if !eventually(func() bool { return s.in("grep -c 'Dear Grüße' letter") == "21" }) {
		return fmt.Errorf("the file has %q", s.in("head -3 letter"))
	}
	return nil
}

func less(s *scene) error {
	w, err := s.screen()
	if err != nil {
		return err
	}
	if err := w.typed("seq 1000 1999 | less\n", "1000", "1028"); err != nil {
		return err
	}
	if err := w.typed("G", "1999", "(END)"); err != nil {
		return err
	}
	if err := w.typed("g/15[0]5\n", "1505"); err != nil {
		return err
	}
	return w.typed("qclear; echo b''ack\n", "back")
}

func htop(s *scene) error {
	w, err := s.screen()
	if err != nil {
		return err
	}
	if err := w.typed("htop\n", "Load average", "F10", "htop"); err != nil {
		return err
	}
	return w.typed("qclear; echo b''ack\n", "back")
}

func tmux(s *scene) error {
	w, err := s.screen()
	if err != nil {
		return err
	}
	s.later(func() { s.in("tmux -L inner kill-server") })
	if err := w.typed("tmux -L inner -f /dev/null new-session -s inner\n", "[inner]"); err != nil {
		return err
	}
	if err := w.typed("PS1='%% '; clear; echo $TMUX | cut -c1-5; tty\n", "/tmp/", "/dev/pts/"); err != nil {
		return err
	}
	w.press("C-b")
	if err := w.typed("d", "[detached (from session inner)]"); err != nil {
		return err
	}
	if err := w.typed("exit\n"); err != nil {
		return err
	}
	// It is there for the next login.
	again, err := s.screen()
	if err != nil {
		return err
	}
	return again.typed("tmux -L inner attach\n", "[inner]", "/dev/pts/")
}

func gnuScreen(s *scene) error {
	w, err := s.screen()
	if err != nil {
		return err
	}
	if err := w.typed("screen -q sh\n"); err != nil {
		return err
	}
	if err := w.typed("clear; echo sty=$STY | sed s/[0-9]*\\\\.pts/NUMBER/\n", "sty=NUMBER"); err != nil {
		return err
	}
	if err := w.typed("exit\n", "[screen is terminating]"); err != nil {
		return err
	}
	return w.typed("clear; echo b''ack:$STY:\n", "back::")
}

func colour(s *scene) error {
	w, err := s.screen()
	if err != nil {
		return err
	}
	if err := w.typed("clear; printf '\\033[38;2;17;34;51mred''dish\\033[0m 日本|\\n'\n", "reddish 日本|"); err != nil {
		return err
	}
	if shown := w.shows("-e"); !strings.Contains(shown, "38;2;17;34;51") {
		return fmt.Errorf("the screen has no such colour: %q", shown)
	}
	return nil
}
