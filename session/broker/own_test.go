package broker

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/carrel-sh/carrel/accounts"
	"github.com/carrel-sh/carrel/config"
	"github.com/carrel-sh/carrel/sandbox"
	"github.com/carrel-sh/carrel/session"
)

// told is an observer that writes down.
type told struct {
	mu   sync.Mutex
	list []string
}

func (o *told) add(format string, args ...any) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.list = append(o.list, fmt.Sprintf(format, args...))
}

func (o *told) LoggedIn(uid uint32, id session.ID, terminal bool) {
	o.add("login %d %v %v", uid, id != 0, terminal)
}
func (o *told) Refused(uid uint32, why string) { o.add("refused %d: %s", uid, why) }
func (o *told) Awake(uid uint32)               { o.add("awake %d", uid) }

func (o *told) has(want string) bool {
	return eventually(func() bool {
		o.mu.Lock()
		defer o.mu.Unlock()
		return slices.Contains(o.list, want)
	})
}

func TestObserver(t *testing.T) {
	o := &told{}
	r := newRig(t, func(r *rig) { r.Observer = o })
	q := request()
	q.Streams.Tty = true
	wantSession(t, "login", r.request(self(), q), q.Streams)
	if !o.has(fmt.Sprintf("login %d true true", self())) {
		t.Errorf("told %q of a login", o.list)
	}
	conn := r.dial(self())
	if _, err := conn.Write(session.Awake()); err != nil {
		t.Fatal(err)
	}
	if g := receive(conn); g.err == nil {
		t.Errorf("a sign of life is answered: %+v", g.reply)
	}
	if !o.has(fmt.Sprintf("awake %d", self())) {
		t.Errorf("told %q of a sign of life", o.list)
	}
	r.boxes.box(alice).set(func(c *box) { c.unfit = sandbox.ErrSuspended })
	g := r.login(self())
	wantFailure(t, "suspended", g, session.Refused)
	if !strings.Contains(g.reply.Detail, "suspended") || !o.has(fmt.Sprintf("refused %d: %s", self(), g.reply.Detail)) {
		t.Errorf("%+v; told %q of a refusal", g.reply, o.list)
	}
	r.boxes.box(alice).set(func(c *box) { c.unfit, c.homeless = nil, true })
	wantFailure(t, "a command without a home", r.login(self()), session.HomeUnusable)
	wantSession(t, "a terminal without a home", r.request(self(), q), q.Streams)
	r.idle()
	if c := r.boxes.box(alice); c.acquired != 1 { // the refused one, which the fake counts
		t.Errorf("%d logins hold the container", c.acquired)
	}
}

func TestClosed(t *testing.T) {
	r := newRig(t)
	r.Close(&Closure{Message: "back at noon"})
	g := r.login(self())
	wantFailure(t, "while closed", g, session.Refused)
	if g.reply.Detail != "back at noon" {
		t.Errorf("detail %q", g.reply.Detail)
	}
	files := request()
	files.Command.Text = "/usr/lib/openssh/sftp-server"
	wantFailure(t, "files while closed", r.request(self(), files), session.Refused)
	r.Close(&Closure{AllowFiles: true})
	wantSession(t, "files while closed for others", r.request(self(), files), files.Streams)
	if g := r.login(self()); g.reply == nil || !strings.Contains(g.reply.Detail, "maintenance") {
		t.Errorf("closed without a message: %+v", g)
	}
	r.Close(nil)
	wantSession(t, "open again", r.login(self()), session.Streams{})
	r.idle()
}

func TestMovesFiles(t *testing.T) {
	yes := []string{
		"/usr/lib/openssh/sftp-server", "/usr/lib/ssh/sftp-server -l INFO -f AUTH", "internal-sftp", "sftp-server",
		"scp -t .", "scp -r -p -t -- /tmp/x", "scp -f notes.txt", "scp -rpf dir/a b", "scp -v -t ~/x",
	}
	no := []string{
		"", "scp", "bash", "scp -t x; id", "scp -f $(id)", "scp -t `id`", "scp -t x\nid", "scp -S /tmp/prog -t x", "scp -o x -t y",
		"/usr/lib/openssh/sftp-server; bash", "sftp-server\nbash", "/tmp/sftp-serverx", "sftp-server|sh", "sftp-server & id",
		"scp -t 'a b'", "scp -3 a b", "scp a b", " scp -t x", "env scp -t x", "sftp-server \t-e",
	}
	for _, text := range yes {
		if !movesFiles(session.Command{HasText: true, Text: text}) {
			t.Errorf("movesFiles(%q) = false", text)
		}
	}
	for _, text := range no {
		if movesFiles(session.Command{HasText: true, Text: text}) {
			t.Errorf("movesFiles(%q) = true", text)
		}
	}
	if movesFiles(session.Command{Login: true}) || movesFiles(session.Command{HasText: true, Text: "scp -t x", Args: []string{"x"}}) {
		t.Error("a login moves files")
	}
}

// ownRig answers each command with its name.
func ownRig(t *testing.T) *rig {
	return newRig(t, func(r *rig) {
		r.Own = func(_ context.Context, a accounts.Account, c OwnCommand) (string, int) {
			return fmt.Sprintf("%s of %d, %v\n", c.Name, a.UID, c.Yes), 7
		}
	})
}

func TestOwnCommands(t *testing.T) {
	r := ownRig(t)
	for text, want := range map[string]string{
		"carrel status": "status of 1000, false", "carrel sessions": "sessions of 1000, false",
		"carrel reset": "reset of 1000, false", "carrel reset --yes": "reset of 1000, true",
	} {
		for _, streams := range []session.Streams{{}, {Tty: true}, {Tty: true, SplitStderr: true}} {
			q := request()
			q.Command.Text, q.Streams = text, streams
			g := r.request(self(), q)
			if g.err != nil || g.reply.Failure != session.None || check(streams, g.fds) != nil {
				t.Fatalf("%s, %+v: %+v, %v, %v", text, streams, g.reply, g.err, check(streams, g.fds))
			}
			from, end := g.fds[1], "\r\n"
			if !streams.Tty {
				from, end = g.fds[2], "\n"
			}
			if got := readAll(t, from); got != want+end {
				t.Errorf("%s, %+v prints %q; want %q", text, streams, got, want+end)
			}
			buf := make([]byte, 16)
			n, err := unix.Read(g.fds[0], buf)
			if exit, decodeErr := session.DecodeExit(buf[:max(n, 0)]); exit.Status != 7 || errors.Join(err, decodeErr) != nil {
				t.Errorf("%s: exit %+v, %v, %v", text, exit, err, decodeErr)
			}
			closeAll(g.fds)
		}
	}
	if n := len(r.boxes.starts()); n != 0 {
		t.Errorf("%d containers started for that", n)
	}
	r.idle()
}

// readAll reads to the end, which for a terminal is EIO.
func readAll(t *testing.T, fd int) string {
	t.Helper()
	var all []byte
	for {
		buf := make([]byte, 4096)
		n, err := unix.Read(fd, buf)
		if n <= 0 || errors.Is(err, unix.EIO) {
			return string(all)
		}
		all = append(all, buf[:n]...)
	}
}

// TestOthersAreTheShells: a command that is not exactly one of ours, or that
// policy leaves alone, goes to a session.
func TestOthersAreTheShells(t *testing.T) {
	r := ownRig(t)
	for _, text := range []string{
		"carrel", "carrel status ", " carrel status", "carrel  status", "carrel status; id", "carrel status\n", "carrel explode",
		"carrel reset -y", "CARREL status", "/usr/bin/carrel status",
	} {
		q := request()
		q.Command.Text = text
		wantSession(t, text, r.request(self(), q), q.Streams)
		if got := r.log.String(); strings.Contains(got, "own command") {
			t.Fatalf("%q was answered by the daemon", text)
		}
	}
	q := request()
	q.Command.Text, q.Command.Args = "carrel status", []string{"x"}
	wantSession(t, "with arguments", r.request(self(), q), q.Streams)
	r.configure(func(c *config.Config) { c.SelfService = []config.SelfCommand{config.SelfStatus} })
	q = request()
	q.Command.Text = "carrel reset --yes"
	wantSession(t, "not by policy", r.request(self(), q), q.Streams)
	if got := r.log.String(); strings.Contains(got, "own command") {
		t.Errorf("policy was not asked: %s", got)
	}
	// The twin: what policy allows is answered, and a long answer is cut.
	r = newRig(t, func(r *rig) {
		r.Own = func(context.Context, accounts.Account, OwnCommand) (string, int) {
			return strings.Repeat(strings.Repeat("x", 79)+"\n", 1000), 0
		}
	})
	q.Command.Text = "carrel status"
	for _, tty := range []bool{false, true} {
		q.Streams.Tty = tty
		g := r.request(self(), q)
		if g.err != nil || len(g.fds) == 0 {
			t.Fatalf("%+v, %v", g.reply, g.err)
		}
		from := map[bool]int{true: 1, false: 2}[tty]
		if got := readAll(t, g.fds[from]); len(got) < maxOwnText/2 || !strings.HasSuffix(strings.ReplaceAll(got, "\r", ""), "x\n...\n") {
			t.Errorf("a long answer ends %q after %d bytes", got[max(0, len(got)-20):], len(got))
		}
		closeAll(g.fds)
	}
	before, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	for range 20 {
		g := r.request(self(), q)
		closeAll(g.fds)
	}
	settle(t, len(before))
	r.idle()
}
