package fidelity

import (
	"bytes"
	"fmt"
	"io"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/carrel-sh/carrel/test/internal/host"
)

// patience bounds every wait of the suite. It only matters when something is
// broken: no check asserts on time.
const patience = 30 * time.Second

// A scene is one check at one door.
type scene struct {
	*fixture
	*door
	cleanups []func()
}

// later has f called when the check is over.
func (s *scene) later(f func()) { s.cleanups = append(s.cleanups, f) }

func (s *scene) close() {
	for i := len(s.cleanups) - 1; i >= 0; i-- {
		s.cleanups[i]()
	}
}

// visit is a session of the user's, or of the oracle's.
func (s *scene) visit(oracle bool, command string) visit {
	v := visit{account: s.user, oracle: oracle, command: command}
	if oracle {
		v.account = s.oracle
	}
	return v
}

// run runs a command as the user.
func (s *scene) run(command string) host.Result { return s.runs(s.visit(false, command), nil) }

func (s *scene) runs(v visit, stdin io.Reader) host.Result {
	cmd := s.open(v)
	if stdin == nil {
		stdin = bytes.NewReader(nil)
	}
	cmd.Stdin = stdin
	return host.Run(cmd)
}

// in runs a command in the user's container by the shortest way, whatever the
// door is, and returns what it wrote.
func (s *scene) in(command string) string {
	return strings.TrimSuffix(s.In(s.user, command, nil).Stdout, "\n")
}

// same runs the command as the user and as the oracle and says how they differ.
func (s *scene) same(command string) error { return s.sameWith(command, "") }

func (s *scene) sameWith(command, stdin string) error {
	got := s.runs(s.visit(false, command), strings.NewReader(stdin))
	want := s.runs(s.visit(true, command), strings.NewReader(stdin))
	if got.Err != nil || got.Code != want.Code || got.Signal != want.Signal ||
		s.plain(got.Stdout) != s.plain(want.Stdout) || s.plain(got.Stderr) != s.plain(want.Stderr) {
		return fmt.Errorf("%q: %v; the plain account: %v", abbreviate(command), got, want)
	}
	return nil
}

// plain takes out of a text what differs between two accounts by nature.
func (s *scene) plain(text string) string {
	for _, a := range []host.Account{s.user, s.oracle} {
		text = strings.ReplaceAll(text, a.Name, "USER")
		id := regexp.MustCompile(`\b` + strconv.FormatUint(uint64(a.UID), 10) + `\b`)
		text = id.ReplaceAllString(text, "UID")
	}
	return text
}

// terminal opens the user's session on a terminal of 47 rows and 131 columns.
func (s *scene) terminal(command string) (*host.Terminal, error) {
	return s.terminals(s.visit(false, command))
}

func (s *scene) terminals(v visit) (*host.Terminal, error) {
	v.tty = true
	t, err := host.OnTerminal(s.open(v), 47, 131)
	if err == nil {
		s.later(func() { t.Close() })
	}
	return t, err
}

// eventually polls ok until it is true or patience ends.
func eventually(ok func() bool) bool {
	for end := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		if ok() {
			return true
		}
		if time.Now().After(end) {
			return false
		}
	}
}

func abbreviate(text string) string {
	if len(text) > 200 {
		return text[:100] + "[…]" + text[len(text)-100:]
	}
	return text
}
