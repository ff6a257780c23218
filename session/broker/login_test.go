package broker

import (
	"context"
	"fmt"
	"io/fs"
	"net"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/carrel-sh/carrel/accounts"
	"github.com/carrel-sh/carrel/config"
	"github.com/carrel-sh/carrel/imagestore"
	"github.com/carrel-sh/carrel/policy"
	"github.com/carrel-sh/carrel/sandbox"
	"github.com/carrel-sh/carrel/sandbox/cgroup"
	"github.com/carrel-sh/carrel/session"
)

func alicesSpec() sandbox.Spec {
	return sandbox.Spec{User: sandbox.User{Name: "alice", UID: alice, GID: alice}, ImageID: "one"}
}

// TestFailures has a login fail in every way there is, and looks at what the
// caller is told and at the log.
func TestFailures(t *testing.T) {
	lookup := func(a accounts.Account, err error) func(*rig) {
		return func(r *rig) {
			r.people.say(func(context.Context) (accounts.Account, error) { return a, err })
		}
	}
	start := func(err error) func(*rig) {
		return func(r *rig) {
			r.boxes.onStart(func(context.Context, sandbox.Spec) error { return fmt.Errorf("start: %w", err) })
		}
	}
	store := func(err error) func(*rig) {
		return func(r *rig) { r.images.set(func(i *images) { i.err = err }) }
	}
	homeless := person("alice", alice)
	homeless.Home = "/"
	sh := person("alice", alice)
	sh.Shell = "/bin/sh"
	tests := []struct {
		name   string
		set    func(*rig)
		want   session.Failure
		detail string
	}{
		{"no account", lookup(accounts.Account{}, accounts.ErrNotFound), session.UnknownAccount, ""},
		{"two accounts", lookup(accounts.Account{}, accounts.ErrAmbiguous), session.UnknownAccount, ""},
		{"a silent directory", lookup(accounts.Account{}, accounts.ErrUnavailable), session.NoAnswer, ""},
		{"a slow directory", lookup(accounts.Account{}, context.DeadlineExceeded), session.NoAnswer, ""},
		{"root", lookup(person("root", 0), nil), session.Refused, "root has no session of its own here; an administrator can use \"carrel enter USER\"."},
		{"another shell", lookup(sh, nil), session.Refused, "This account is not set up for sessions here. Please ask the administrator."},
		{"a rule", func(r *rig) {
			r.configure(func(c *config.Config) {
				c.Rules = []config.Rule{{Users: []string{"alice"}, Refuse: true, Message: "Come back on Monday."}}
			})
		}, session.Refused, "Come back on Monday."},
		{"no home of the host", func(r *rig) {
			r.configure(func(c *config.Config) { c.Home = config.HomeHost })
			lookup(homeless, nil)(r)
		}, session.HomeUnusable, ""},
		{"no image", store(fmt.Errorf("open: %w", imagestore.ErrNotFound)), session.NoImage, "host"},
		{"a store that is full", store(unix.ENOSPC), session.NoSpace, ""},
		{"a broken store", store(fs.ErrPermission), session.StartFailed, ""},
		{"limits", start(&sandbox.LimitsError{Unenforced: []cgroup.Unenforced{{Limit: cgroup.LimitPids}}}), session.LimitsUnmet, ""},
		{"a home that is a link", start(sandbox.ErrHome), session.HomeUnusable, ""},
		{"no space", start(&os.PathError{Op: "mkdir", Path: "/x", Err: unix.ENOSPC}), session.NoSpace, ""},
		{"no quota", start(unix.EDQUOT), session.NoSpace, ""},
		{"a hang", start(context.DeadlineExceeded), session.NoAnswer, ""},
		{"anything else", start(errTest), session.StartFailed, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := newRig(t)
			tt.set(r)
			g := r.login(self())
			wantFailure(t, "login", g, tt.want)
			if g.err == nil && g.reply.Detail != tt.detail {
				t.Errorf("detail %q; want %q", g.reply.Detail, tt.detail)
			}
			if log := r.log.String(); !strings.Contains(log, "login refused") || !strings.Contains(log, "err=") {
				t.Errorf("log %q has no cause", log)
			}
			r.idle()
		})
	}
}

// TestRefusalOfNoPolicy: an error that is no refusal is a fault of ours.
func TestRefusalOfNoPolicy(t *testing.T) {
	for err, want := range map[error]session.Failure{
		errTest: session.Internal,
		error(&policy.Refusal{Code: policy.CodeHome, Message: "m"}): session.HomeUnusable,
		error(&policy.Refusal{Code: policy.CodeName, Message: "m"}): session.Refused,
	} {
		if f := refusal(err); f.code != want {
			t.Errorf("refusal(%v) = %d; want %d", err, f.code, want)
		}
	}
}

// TestContainerDies: PID 1 ends after it was found and before it is asked.
func TestContainerDies(t *testing.T) {
	r := newRig(t)
	wantSession(t, "first", r.login(self()), session.Streams{})
	r.boxes.box(alice).set(func(c *box) { c.dying = true })
	wantSession(t, "after its end", r.login(self()), session.Streams{})
	if n := len(r.boxes.starts()); n != 2 {
		t.Errorf("%d starts; want a second", n)
	}
	// One that dies each time is given up.
	r.boxes.set(func(b *boxes) { b.init = func(c *box) { c.end() } })
	r.boxes.box(alice).end()
	wantFailure(t, "one that always dies", r.login(self()), session.NoAnswer)
	if n := len(r.boxes.starts()); n != 4 {
		t.Errorf("%d starts; want two more", n)
	}
	r.idle()
}

// TestDiesWhileAsked: PID 1 takes the order and ends.
func TestDiesWhileAsked(t *testing.T) {
	r := newRig(t)
	first := true
	r.boxes.set(func(b *boxes) {
		b.init = func(c *box) {
			if !first {
				honest(c)
				return
			}
			first = false
			if conn, err := c.l.AcceptUnix(); err == nil {
				takeOrder(conn)
				c.end()
				conn.Close()
			}
		}
	})
	wantSession(t, "login", r.login(self()), session.Streams{})
}

// TestOutdated replaces a container whose image has changed, when nobody is in
// it and not before.
func TestOutdated(t *testing.T) {
	r := newRig(t)
	wantSession(t, "first", r.login(self()), session.Streams{})
	first := r.boxes.box(alice)
	first.set(func(c *box) { c.used = true })
	r.images.set(func(i *images) { i.id = "two" })
	expire(r.Broker)
	wantSession(t, "in use", r.login(self()), session.Streams{}) // and has the store asked
	if !eventually(func() bool { m, _, _ := r.mounts(t.Context(), "host", true); return m.ImageID == "two" }) {
		t.Fatal("the store was not asked again")
	}
	wantSession(t, "in use, and known to be outdated", r.login(self()), session.Streams{})
	if first.ended() {
		t.Fatal("a container was replaced with somebody in it")
	}
	first.set(func(c *box) { c.used = false })
	wantSession(t, "empty", r.login(self()), session.Streams{})
	starts := r.boxes.starts()
	if !first.ended() || len(starts) != 2 || starts[1].ImageID != "two" {
		t.Errorf("starts %+v; want one of each image", starts)
	}
	wantSession(t, "again", r.login(self()), session.Streams{})
	if n := len(r.boxes.starts()); n != 2 {
		t.Errorf("%d starts; want no third", n)
	}
}

// TestFormerOwner: whoever has the uid now does not get into the container of
// whoever had it before, whatever runs there.
func TestFormerOwner(t *testing.T) {
	r := newRig(t)
	wantSession(t, "alice", r.login(self()), session.Streams{})
	hers := r.boxes.box(alice)
	hers.set(func(c *box) { c.used = true })
	wantSession(t, "alice again", r.login(self()), session.Streams{})
	if n := len(r.boxes.starts()); n != 1 || hers.ended() { // the twin: her own stays
		t.Fatalf("%d starts; want alice in the container that she uses", n)
	}
	r.people.say(func(context.Context) (accounts.Account, error) { return person("bob", alice), nil })
	wantSession(t, "bob", r.login(self()), session.Streams{})
	starts := r.boxes.starts()
	if !hers.ended() || len(starts) != 2 || starts[1].User.Name != "bob" {
		t.Errorf("alice's container ended: %v; starts %+v; want a second for bob", hers.ended(), starts)
	}
	his := r.boxes.box(alice)
	his.set(func(c *box) { c.used = true })
	wantSession(t, "bob again", r.login(self()), session.Streams{})
	if n := len(r.boxes.starts()); n != 2 || his.ended() {
		t.Errorf("%d starts; want bob in his own", n)
	}
	r.idle()
}

// TestFormerOwnerStays: if what the former owner left cannot be stopped, nobody
// gets in.
func TestFormerOwnerStays(t *testing.T) {
	r := newRig(t)
	wantSession(t, "alice", r.login(self()), session.Streams{})
	r.boxes.box(alice).set(func(c *box) { c.used = true })
	r.boxes.set(func(b *boxes) { b.stuck = errTest })
	r.people.say(func(context.Context) (accounts.Account, error) { return person("bob", alice), nil })
	wantFailure(t, "bob", r.login(self()), session.StartFailed)
	r.boxes.set(func(b *boxes) { b.stuck = nil })
	wantSession(t, "bob, when it could be stopped", r.login(self()), session.Streams{})
}

// TestSuspendedStays: no login replaces a container that root suspended, not
// even one that is outdated and empty, or a former owner's.
func TestSuspendedStays(t *testing.T) {
	for _, tt := range []struct {
		name    string
		outdate func(*rig)
	}{
		{"another image", func(r *rig) {
			r.images.set(func(i *images) { i.id = "two" })
			r.forget("host") // which has the store asked
		}},
		{"another owner", func(r *rig) {
			r.people.say(func(context.Context) (accounts.Account, error) { return person("bob", alice), nil })
		}},
	} {
		r := newRig(t)
		wantSession(t, tt.name+", first", r.login(self()), session.Streams{})
		first := r.boxes.box(alice)
		first.set(func(c *box) { c.unfit = sandbox.ErrSuspended })
		tt.outdate(r)
		g := r.login(self())
		wantFailure(t, tt.name, g, session.Refused)
		if first.ended() || g.err != nil || g.reply.Detail != SuspendedSentence {
			t.Errorf("%s: ended: %v; told %+v", tt.name, first.ended(), g.reply)
		}
		// The twin: what root lets go is replaced.
		first.set(func(c *box) { c.unfit = nil })
		wantSession(t, tt.name+", thawed", r.login(self()), session.Streams{})
		if !first.ended() {
			t.Errorf("%s: the outdated container was not replaced: the test proves nothing", tt.name)
		}
		r.idle()
	}
}

// expire makes what is known of images old.
func expire(b *Broker) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, k := range b.images {
		k.at = time.Time{}
	}
}

// TestStartAsksTheStore: what a container is started from is never what was
// known of an image when a login found the former one running.
func TestStartAsksTheStore(t *testing.T) {
	r := newRig(t)
	wantSession(t, "first", r.login(self()), session.Streams{})
	r.images.set(func(i *images) { i.id = "two" }) // and the layers of the first are gone
	r.boxes.box(alice).set(func(c *box) { c.dying = true })
	wantSession(t, "after its end", r.login(self()), session.Streams{})
	starts := r.boxes.starts()
	if len(starts) != 2 || !slices.Equal(starts[1].Layers, []string{"/layers/two"}) || starts[1].ImageID != "two" {
		t.Errorf("starts %+v; want the second from the store's own word", starts)
	}
	// An image that was removed meanwhile is missed by name.
	r.images.set(func(i *images) { i.err = imagestore.ErrNotFound })
	r.boxes.box(alice).set(func(c *box) { c.dying = true })
	g := r.login(self())
	wantFailure(t, "removed", g, session.NoImage)
	if g.err == nil && g.reply.Detail != "host" {
		t.Errorf("detail %q; want the image's name", g.reply.Detail)
	}
}

// TestWarmAsksNobody: a login into a running container does not wait for the
// store.
func TestWarmAsksNobody(t *testing.T) {
	r := newRig(t)
	wantSession(t, "cold", r.login(self()), session.Streams{})
	for range 20 {
		wantSession(t, "warm", r.login(self()), session.Streams{})
	}
	r.images.mu.Lock()
	defer r.images.mu.Unlock()
	if r.images.asked != 1 {
		t.Errorf("the store was asked %d times; want once", r.images.asked)
	}
}

// TestRefreshPanics: the question behind a login ends in a panic, and is asked
// again.
func TestRefreshPanics(t *testing.T) {
	r := newRig(t)
	wantSession(t, "cold", r.login(self()), session.Streams{})
	expire(r.Broker)
	r.images.set(func(i *images) { i.panic = true })
	wantSession(t, "warm", r.login(self()), session.Streams{})
	if !eventually(func() bool { return strings.Contains(r.log.String(), "BUG: ") }) {
		t.Error("no panic was logged")
	}
	r.images.set(func(i *images) { i.panic = false })
	wantSession(t, "afterwards", r.login(self()), session.Streams{})
}

// TestSpec looks at what a container is made of.
func TestSpec(t *testing.T) {
	r := newRig(t)
	wantSession(t, "login", r.login(self()), session.Streams{})
	limits := config.Default().Limits
	want := sandbox.Spec{
		User: sandbox.User{
			Name: "alice", UID: alice, GID: alice, Shell: "/bin/bash",
			Groups: []sandbox.Group{{Name: "alice", GID: alice}, {Name: "lab", GID: 70000}},
		},
		Hostname: hostname("alice"), Image: "host", ImageID: "one", Layers: []string{"/layers/one"},
		Home: sandbox.HomePrivate, HomePath: "/home/alice",
		Limits: cgroup.Limits{
			MemoryBytes: limits.MemoryBytes, SwapBytes: cgroup.NoSwap, CPUWeight: limits.CPUWeight, Pids: limits.Pids,
		},
	}
	if diff := cmp.Diff([]sandbox.Spec{want}, r.boxes.starts()); diff != "" {
		t.Errorf("spec (-want +got):\n%s", diff)
	}
}

// TestOrder looks at what carrel-init is told: only groups that exist inside,
// and nothing of the caller's but what is his to say.
func TestOrder(t *testing.T) {
	r := newRig(t)
	orders := make(chan *session.Spawn, 1)
	r.boxes.set(func(b *boxes) {
		b.init = answering(func(conn *net.UnixConn) { orders <- takeOrder(conn) })
	})
	q := request()
	q.Env = []string{"TERM=xterm", "LD_PRELOAD=/evil", "HOME=/root", "USER=root", "PATH=/evil", "LC_ALL=C.UTF-8", "BASH_ENV=/evil", "_LIBCONTAINER_INITPIPE=3"}
	q.Command.Args = []string{"a", "b\n"}
	q.Umask = 0o77
	wantFailure(t, "login", r.request(self(), q), session.NoAnswer)
	got := <-orders
	want := &session.Spawn{
		ID: got.ID, User: "alice", UID: alice, GID: alice, Groups: []uint32{alice}, Home: "/home/alice",
		Shells: []string{"/bin/bash", "/bin/sh"}, Command: q.Command, Umask: 0o77,
		Env: []string{
			"HOME=/home/alice", "USER=alice", "LOGNAME=alice", "PATH=" + defaultPath, "MAIL=/var/mail/alice",
			"TERM=xterm", "LC_ALL=C.UTF-8",
		},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("order (-want +got):\n%s", diff)
	}
}

func TestTooLong(t *testing.T) {
	r := newRig(t)
	r.configure(func(c *config.Config) {
		c.Env = map[string]string{}
		for i := range 40 {
			c.Env[fmt.Sprintf("LONG%d", i)] = strings.Repeat("x", 4000)
		}
	})
	q := request()
	q.Command.Text = strings.Repeat("x", session.MaxCommand)
	wantFailure(t, "command and environment", r.request(self(), q), session.TooLong)
	r.configure(func(*config.Config) {})
	wantSession(t, "the command alone", r.request(self(), q), session.Streams{})
}

func TestEnvironment(t *testing.T) {
	base := []string{"HOME=/h", "USER=a", "LOGNAME=a", "PATH=" + defaultPath, "MAIL=/var/mail/a"}
	tests := []struct {
		name         string
		brought, set []string
		want         []string
	}{
		{"nothing", nil, nil, base},
		{"brought", []string{"TERM=x"}, nil, append(slices.Clone(base), "TERM=x")},
		{"policy wins over the user", []string{"TERM=x", "LANG=C"}, []string{"TERM=y"}, append(slices.Clone(base), "TERM=y", "LANG=C")},
		{"policy wins over Carrel", nil, []string{"PATH=/p"}, []string{"HOME=/h", "USER=a", "LOGNAME=a", "PATH=/p", "MAIL=/var/mail/a"}},
		{"names that begin alike", nil, []string{"PATHS=1", "HOM=2", "USERS=3"}, append(slices.Clone(base), "PATHS=1", "HOM=2", "USERS=3")},
		{"twice", nil, []string{"A=1", "B=2", "A=3"}, append(slices.Clone(base), "A=3", "B=2")},
		{"empty values", nil, []string{"A=", "HOME="}, []string{"HOME=", "USER=a", "LOGNAME=a", "PATH=" + defaultPath, "MAIL=/var/mail/a", "A="}},
	}
	for _, tt := range tests {
		if diff := cmp.Diff(tt.want, environment("a", "/h", tt.brought, tt.set)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tt.name, diff)
		}
	}
}

func TestPut(t *testing.T) {
	env := []string{"A=1", "AB=2"}
	env = put(env, "AB=3")
	env = put(env, "A=x=y")
	env = put(env, "C")
	if want := []string{"A=x=y", "AB=3", "C"}; !slices.Equal(env, want) {
		t.Errorf("put = %q; want %q", env, want)
	}
}

func TestShells(t *testing.T) {
	for wanted, want := range map[string][]string{
		"/bin/zsh": {"/bin/zsh", "/bin/bash", "/bin/sh"}, "/bin/bash": {"/bin/bash", "/bin/sh"}, "/bin/sh": {"/bin/sh", "/bin/bash"},
	} {
		if got := shells(wanted); !slices.Equal(got, want) {
			t.Errorf("shells(%q) = %q; want %q", wanted, got, want)
		}
	}
}

func TestHostname(t *testing.T) {
	for _, user := range []string{"alice", "a", "dom\\user@realm", "_", "a.b", strings.Repeat("x", 200), "ä\n\x1b[2J"} {
		name := hostname(user)
		if len(name) == 0 || len(name) > 63 || strings.Trim(name, "-") != name || strings.ContainsFunc(name, func(r rune) bool {
			return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && r != '-'
		}) {
			t.Errorf("hostname(%q) = %q is not a label", user, name)
		}
	}
}

// TestCallerLeaves: the caller is gone when the session is there. Nothing stays,
// and init sees its end of the control socket close.
func TestCallerLeaves(t *testing.T) {
	r := newRig(t)
	wantSession(t, "first", r.login(self()), session.Streams{})
	r.idle()
	closed := make(chan error, 1)
	asked, left := make(chan struct{}), make(chan struct{})
	r.boxes.box(alice).end()
	r.boxes.set(func(b *boxes) {
		b.init = answering(func(conn *net.UnixConn) {
			takeOrder(conn)
			close(asked)
			<-left
			fds, rest := ends(session.Streams{})
			_ = sendRights(conn, (&session.Reply{}).Encode(), fds)
			closeAll(fds)
			_, err := unix.Read(rest[0], make([]byte, 1)) // until the last holder of the other end is gone
			closeAll(rest)
			closed <- err
		})
	})
	before := descriptors(t)
	frame, err := request().Encode()
	if err != nil {
		t.Fatal(err)
	}
	conn := r.dial(self())
	if _, err := conn.Write(frame); err != nil {
		t.Fatal(err)
	}
	<-asked
	conn.Close()
	close(left)
	if err := <-closed; err != nil {
		t.Errorf("read of the control socket: %v; want its end", err)
	}
	r.idle()
	r.boxes.close()
	settle(t, before)
}
