package broker

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"maps"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/carrel-sh/carrel/accounts"
	"github.com/carrel-sh/carrel/config"
	"github.com/carrel-sh/carrel/imagestore"
	"github.com/carrel-sh/carrel/internal/testneed"
	"github.com/carrel-sh/carrel/policy"
	"github.com/carrel-sh/carrel/sandbox"
	"github.com/carrel-sh/carrel/session"
)

// patience bounds every wait of these tests; it matters only when something is
// broken.
const patience = 30 * time.Second

// A rig is a broker that serves on a socket of its own, among fakes.
type rig struct {
	*Broker
	t      *testing.T
	path   string
	people *people
	policy atomic.Pointer[policy.Policy]
	images *images
	boxes  *boxes
	log    *lines
}

// alice is who logs in where nothing else is said.
const alice = 1000

// newRig serves when prepare has done what it must do before.
func newRig(t *testing.T, prepare ...func(*rig)) *rig {
	t.Helper()
	r := &rig{Broker: New(), t: t, people: &people{}, images: &images{id: "one"}, log: &lines{}}
	r.boxes = &boxes{t: t, running: map[uint32]*box{}, init: honest}
	t.Cleanup(r.boxes.close)
	r.configure(func(*config.Config) {})
	r.Accounts, r.Images, r.Sandboxes = r.people, r.images, r.boxes
	r.Policy = r.policy.Load
	r.Logger = slog.New(slog.NewTextHandler(r.log, nil))
	// A short path, whatever the test's name: sun_path has 108 bytes.
	dir, err := os.MkdirTemp("", "b")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	r.path = filepath.Join(dir, "s")
	l, err := Listen(r.path)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range prepare {
		f(r)
	}
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- r.Serve(ctx, l) }()
	t.Cleanup(func() {
		cancel()
		if err := <-served; err != nil {
			t.Errorf("Serve = %v", err)
		}
		l.Close()
	})
	return r
}

// configure replaces the policy.
func (r *rig) configure(change func(*config.Config)) {
	cfg := config.Default()
	change(cfg)
	r.policy.Store(policy.New(cfg))
}

// lines is a log that a test reads.
type lines struct {
	mu   sync.Mutex
	text []byte
}

func (l *lines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.text = append(l.text, b...)
	return len(b), nil
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return string(l.text)
}

// people is a directory in which every uid that the kernel names is one
// account: a test may run as root, whom no policy lets in.
type people struct {
	mu     sync.Mutex
	answer func(ctx context.Context) (accounts.Account, error) // instead, if not nil
}

func (p *people) say(answer func(context.Context) (accounts.Account, error)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.answer = answer
}

func (p *people) Lookup(ctx context.Context, uid uint32) (accounts.Account, error) {
	p.mu.Lock()
	answer := p.answer
	p.mu.Unlock()
	if answer != nil {
		return answer(ctx)
	}
	if uid == uint32(os.Geteuid()) {
		return person("alice", alice), nil
	}
	return person("u"+strconv.Itoa(int(uid)), uid), nil
}

func person(name string, uid uint32) accounts.Account {
	return accounts.Account{
		Name: name, UID: uid, GID: uid, Groups: []accounts.Group{{Name: name, GID: uid}, {Name: "lab", GID: 70000}},
		Home: "/home/" + name, Shell: "/usr/bin/carrelsh",
	}
}

// images is a store with one image.
type images struct {
	mu    sync.Mutex
	id    imagestore.Digest
	err   error
	asked int
	panic bool
}

func (i *images) Mounts(context.Context, string) (imagestore.Mounts, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.asked++
	if i.panic {
		panic("image")
	}
	return imagestore.Mounts{ImageID: i.id, Layers: []string{"/layers/" + string(i.id)}}, i.err
}

func (i *images) set(change func(*images)) {
	i.mu.Lock()
	defer i.mu.Unlock()
	change(i)
}

// boxes keeps containers that are sockets with an init behind.
type boxes struct {
	t *testing.T

	mu       sync.Mutex
	init     func(*box)                                      // serves the socket of each new one
	start    func(ctx context.Context, s sandbox.Spec) error // first, if not nil
	running  map[uint32]*box
	started  []sandbox.Spec
	stopped  int
	stuck    error // what Stop returns, if not nil
	starting map[uint32]int
}

func (b *boxes) Find(uid uint32) container {
	b.mu.Lock()
	defer b.mu.Unlock()
	c := b.running[uid]
	if c == nil || c.ended() {
		return nil
	}
	return c
}

func (b *boxes) Start(ctx context.Context, s sandbox.Spec) (container, error) {
	uid := s.User.UID
	b.mu.Lock()
	if b.starting == nil {
		b.starting = make(map[uint32]int)
	}
	b.starting[uid]++
	if b.starting[uid] != 1 {
		b.t.Errorf("%d starts of uid %d at once", b.starting[uid], uid)
	}
	b.started = append(b.started, s)
	start := b.start
	b.mu.Unlock()
	defer func() {
		b.mu.Lock()
		b.starting[uid]--
		b.mu.Unlock()
	}()
	if start != nil {
		if err := start(ctx, s); err != nil {
			return nil, err
		}
	}
	c := newBox(b.t, s)
	b.mu.Lock()
	defer b.mu.Unlock()
	b.running[uid] = c
	go b.init(c)
	return c, nil
}

func (b *boxes) Stop(_ context.Context, uid uint32) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.stuck != nil {
		return b.stuck
	}
	if c := b.running[uid]; c != nil {
		b.stopped++
		c.end()
		delete(b.running, uid)
	}
	return nil
}

// set changes what happens from now on.
func (b *boxes) set(change func(*boxes)) {
	b.mu.Lock()
	defer b.mu.Unlock()
	change(b)
}

// onStart has f called at each start.
func (b *boxes) onStart(f func(ctx context.Context, s sandbox.Spec) error) {
	b.set(func(b *boxes) { b.start = f })
}

func (b *boxes) close() {
	b.mu.Lock()
	all := maps.Clone(b.running)
	b.mu.Unlock()
	for uid := range all {
		_ = b.Stop(context.Background(), uid)
	}
}

// starts returns the specs of all starts so far.
func (b *boxes) starts() []sandbox.Spec {
	b.mu.Lock()
	defer b.mu.Unlock()
	return append([]sandbox.Spec(nil), b.started...)
}

func (b *boxes) box(uid uint32) *box {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.running[uid]
}

// A box stands in for a running container.
type box struct {
	spec sandbox.Spec
	l    *net.UnixListener
	done chan struct{}
	once sync.Once

	mu    sync.Mutex
	used  bool // something runs inside
	dying bool // PID 1 ends before Dial reaches it
	// acquired counts the logins under way; unfit is what Acquire returns.
	acquired int
	unfit    error
	homeless bool
}

func newBox(t *testing.T, s sandbox.Spec) *box {
	dir, err := os.MkdirTemp("", "i")
	if err != nil {
		t.Error(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	l, err := net.ListenUnix("unixpacket", &net.UnixAddr{Name: filepath.Join(dir, "s"), Net: "unixpacket"})
	if err != nil {
		t.Error(err)
	}
	return &box{spec: s, l: l, done: make(chan struct{})}
}

func (c *box) Protocol() uint8 { return session.Version }

func (c *box) Dial(ctx context.Context) (*net.UnixConn, error) {
	c.mu.Lock()
	dying := c.dying
	c.mu.Unlock()
	if dying {
		c.end()
		return nil, unix.ECONNREFUSED
	}
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unixpacket", c.l.Addr().String())
	if err != nil {
		return nil, err
	}
	return conn.(*net.UnixConn), nil
}

func (c *box) Acquire() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.acquired++
	return c.unfit
}

func (c *box) Paused() sandbox.Pause {
	c.mu.Lock()
	defer c.mu.Unlock()
	if errors.Is(c.unfit, sandbox.ErrSuspended) {
		return sandbox.Suspended
	}
	return ""
}

func (c *box) HomeMissing() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.homeless
}

func (c *box) Release() { c.set(func(c *box) { c.acquired-- }) }

func (c *box) Done() <-chan struct{} { return c.done }
func (c *box) Owner() string         { return c.spec.User.Name }
func (c *box) Outdated(s *sandbox.Spec) bool {
	return s.ImageID != c.spec.ImageID || s.User.Name != c.spec.User.Name
}
func (c *box) MapsGID(gid uint32) bool { return gid < 65536 }

func (c *box) InUse() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.used
}

func (c *box) set(change func(*box)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	change(c)
}

func (c *box) end() {
	c.once.Do(func() {
		close(c.done)
		c.l.Close()
	})
}

func (c *box) ended() bool {
	select {
	case <-c.done:
		return true
	default:
		return false
	}
}

// answering serves a box with f for each connection.
func answering(f func(conn *net.UnixConn)) func(*box) {
	return func(c *box) {
		for {
			conn, err := c.l.AcceptUnix()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				f(conn)
			}()
		}
	}
}

// honest is what carrel-init does, but that nothing runs: it sends the
// descriptors that the streams call for, and writes the session's id where the
// caller can read it.
func honest(c *box) {
	answering(func(conn *net.UnixConn) {
		order := takeOrder(conn)
		if order == nil {
			return
		}
		fds, rest := ends(order.Streams)
		if !order.Streams.Tty {
			_, _ = unix.Write(rest[2], []byte(strconv.FormatUint(uint64(order.ID), 10)))
		}
		_ = sendRights(conn, (&session.Reply{}).Encode(), fds)
		closeAll(append(fds, rest...))
	})(c)
}

func takeOrder(conn *net.UnixConn) *session.Spawn {
	buf := make([]byte, session.MaxFrame)
	n, err := conn.Read(buf)
	if err != nil {
		return nil
	}
	order, err := session.DecodeSpawn(buf[:n])
	if err != nil {
		return nil
	}
	return order
}

// ends makes the descriptors of a session: what goes out, and the other ends.
// The third of the other ends is that of stdout.
func ends(s session.Streams) (out, rest []int) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		panic(err)
	}
	out, rest = []int{pair[1]}, []int{pair[0]}
	pipes := 3
	if s.Tty {
		master, err := unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
		if err != nil {
			panic(err)
		}
		out, pipes = append(out, master), s.Descriptors()-2
	}
	for i := range pipes {
		var p [2]int
		if err := unix.Pipe2(p[:], unix.O_CLOEXEC); err != nil {
			panic(err)
		}
		if i == 0 && !s.Tty {
			p[0], p[1] = p[1], p[0]
		}
		out, rest = append(out, p[0]), append(rest, p[1])
	}
	return out, rest
}

// dial connects to the broker with the effective uid given.
func (r *rig) dial(uid uint32) *net.UnixConn {
	r.t.Helper()
	var conn *net.UnixConn
	err := as(uid, func() (err error) {
		conn, err = net.DialUnix("unixpacket", nil, &net.UnixAddr{Name: r.path, Net: "unixpacket"})
		return err
	})
	if err != nil {
		r.t.Fatal(err)
	}
	_ = conn.SetDeadline(time.Now().Add(patience))
	return conn
}

// as calls f on a thread with another effective uid. The kernel knows ids by
// thread; Go changes those of all threads only through package syscall.
func as(uid uint32, f func() error) error {
	own := os.Geteuid()
	if int(uid) == own {
		return f()
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	const same = ^uintptr(0)
	if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, same, uintptr(uid), same); errno != 0 {
		return errno
	}
	err := f()
	if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, same, uintptr(own), same); errno != 0 {
		panic(errno)
	}
	return err
}

// self is the uid that the kernel says of a caller that changes nothing.
func self() uint32 { return uint32(os.Geteuid()) }

// other is another user's; only root can be one.
func other(t *testing.T) uint32 {
	testneed.Root(t)
	return 2000
}

// A got is what a caller received.
type got struct {
	reply *session.Reply
	fds   []int
	err   error
}

// receive waits for the broker's answer and closes the connection.
func receive(conn *net.UnixConn) (g got) {
	defer conn.Close()
	buf, oob := make([]byte, 2048), make([]byte, unix.CmsgSpace(64*4))
	n, oobn, _, _, err := conn.ReadMsgUnix(buf, oob)
	if err == nil && n == 0 {
		err = io.EOF
	}
	if err != nil {
		return got{err: err}
	}
	g.fds = rights(oob[:oobn])
	g.reply, g.err = session.DecodeReply(buf[:n])
	return g
}

// login is one caller, with a command without a terminal.
func (r *rig) login(uid uint32) got { return r.request(uid, request()) }

func request() *session.Request {
	return &session.Request{Command: session.Command{HasText: true, Text: "id"}, Umask: 0o22}
}

func (r *rig) request(uid uint32, q *session.Request) got {
	r.t.Helper()
	frame, err := q.Encode()
	if err != nil {
		return got{err: err}
	}
	conn := r.dial(uid)
	if _, err := conn.Write(frame); err != nil {
		conn.Close()
		return got{err: err}
	}
	return receive(conn)
}

// wantSession checks that a caller got a session and closes its descriptors.
func wantSession(t *testing.T, what string, g got, streams session.Streams) {
	t.Helper()
	if g.err != nil || g.reply.Failure != session.None {
		t.Errorf("%s: %+v, %v; want a session", what, g.reply, g.err)
	} else if err := check(streams, g.fds); err != nil {
		t.Errorf("%s: %v", what, err)
	}
	closeAll(g.fds)
}

// wantFailure checks that a caller got none, why, and no descriptor.
func wantFailure(t *testing.T, what string, g got, want session.Failure) {
	t.Helper()
	if g.err != nil || g.reply.Failure != want || len(g.fds) != 0 {
		t.Errorf("%s: %+v with %d descriptors, %v; want failure %d", what, g.reply, len(g.fds), g.err, want)
	}
	closeAll(g.fds)
}

// eventually polls ok until it is true or patience ends.
func eventually(ok func() bool) bool {
	for end := time.Now().Add(patience); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			return false
		}
	}
	return true
}

// idle waits until no login is under way.
func (r *rig) idle() {
	r.t.Helper()
	if !eventually(func() bool {
		r.mu.Lock()
		defer r.mu.Unlock()
		return r.count == 0 && len(r.users) == 0
	}) {
		r.t.Errorf("%d logins, %d users left in the books", r.count, len(r.users))
	}
}

// descriptors counts the process's own.
func descriptors(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

// settle waits until as many descriptors are open as before.
func settle(t *testing.T, before int) {
	t.Helper()
	if !eventually(func() bool { return descriptors(t) <= before }) {
		t.Errorf("%d descriptors are open; %d were", descriptors(t), before)
	}
}

var errTest = errors.New("test")
