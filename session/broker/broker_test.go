package broker

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/carrel-sh/carrel/accounts"
	"github.com/carrel-sh/carrel/internal/testneed"
	"github.com/carrel-sh/carrel/sandbox"
	"github.com/carrel-sh/carrel/session"
)

func TestLogin(t *testing.T) {
	r := newRig(t)
	for name, streams := range map[string]session.Streams{
		"pipes": {}, "terminal": {Tty: true}, "terminal and stderr": {Tty: true, SplitStderr: true},
	} {
		q := request()
		q.Streams = streams
		wantSession(t, name, r.request(self(), q), streams)
	}
	if n := len(r.boxes.starts()); n != 1 {
		t.Errorf("%d containers started; want 1", n)
	}
	r.idle()
}

// TestSingleFlight has two hundred first logins of one user at once.
func TestSingleFlight(t *testing.T) {
	r := newRig(t)
	r.boxes.onStart(func(context.Context, sandbox.Spec) error {
		// Until all the others wait.
		if !eventually(func() bool {
			r.mu.Lock()
			defer r.mu.Unlock()
			return r.count == 200
		}) {
			return errTest
		}
		return nil
	})
	all := make([]got, 200)
	var logins sync.WaitGroup
	for i := range all {
		logins.Go(func() { all[i] = r.login(self()) })
	}
	logins.Wait()
	seen := make(map[string]bool)
	for _, g := range all {
		if g.err == nil && g.reply.Failure == session.None {
			id := make([]byte, 32)
			n, _ := unix.Read(g.fds[2], id)
			if n <= 0 || seen[string(id[:n])] {
				t.Errorf("session %q was handed out twice", id[:max(n, 0)])
			}
			seen[string(id[:max(n, 0)])] = true
		}
		wantSession(t, "one of 200", g, session.Streams{})
	}
	if n := len(r.boxes.starts()); n != 1 {
		t.Errorf("%d containers started; want 1", n)
	}
	r.idle()
}

// TestFailedStartIsNotShared: whoever waited for a start that failed tries one
// of their own, one after another.
func TestFailedStartIsNotShared(t *testing.T) {
	r := newRig(t)
	var once sync.Once
	r.boxes.onStart(func(context.Context, sandbox.Spec) (err error) {
		once.Do(func() { err = errTest })
		return err
	})
	all := make([]got, 20)
	var logins sync.WaitGroup
	for i := range all {
		logins.Go(func() { all[i] = r.login(self()) })
	}
	logins.Wait()
	failed := 0
	for _, g := range all {
		if g.err == nil && g.reply.Failure == session.StartFailed {
			failed++
			continue
		}
		wantSession(t, "a later one", g, session.Streams{})
	}
	if failed != 1 {
		t.Errorf("%d logins failed; want 1", failed)
	}
}

// TestBusy fills a user's share and looks at everybody else's.
func TestBusy(t *testing.T) {
	bob := other(t)
	r := newRig(t)
	var waiting []*net.UnixConn
	for range perUser {
		waiting = append(waiting, r.dial(self())) // and says nothing
	}
	if !eventually(func() bool {
		r.mu.Lock()
		defer r.mu.Unlock()
		return r.count == perUser
	}) {
		t.Fatal("the callers were not accepted")
	}
	// The reply is in the queue, whatever becomes of the connection.
	conn := r.dial(self())
	wantFailure(t, "one more", receive(conn), session.Busy)
	wantSession(t, "another user", r.login(bob), session.Streams{})
	for _, conn := range waiting {
		conn.Close()
	}
	r.idle()
	wantSession(t, "afterwards", r.login(self()), session.Streams{})
}

// TestTotal refuses everybody when all places are taken, and lets nobody's
// books go wrong by it.
func TestTotal(t *testing.T) {
	b := New()
	for uid := range uint32(total) {
		if !b.enter(uid) {
			t.Fatalf("login %d of %d refused", uid, total)
		}
	}
	if b.enter(0) || b.enter(total+1) {
		t.Error("one login more than all was let in")
	}
	for uid := range uint32(total) {
		b.leave(uid)
	}
	if b.count != 0 || len(b.users) != 0 {
		t.Errorf("%d logins, %d users left", b.count, len(b.users))
	}
}

// TestSlowCaller: who sends nothing holds up nobody.
func TestSlowCaller(t *testing.T) {
	r := newRig(t)
	slow := r.dial(self())
	defer slow.Close()
	wantSession(t, "another", r.login(self()), session.Streams{})
	slow.Close()
	r.idle()
}

func TestGarbage(t *testing.T) {
	r := newRig(t)
	good, err := request().Encode()
	if err != nil {
		t.Fatal(err)
	}
	for name, frame := range map[string][]byte{
		"one byte": {0}, "another version": append([]byte{99}, good[1:]...), "cut short": good[:len(good)-1],
		"too long by one": append(bytes.Clone(good), 0), "a spawn": {session.Version, byte(session.KindSpawn)},
		"the largest frame": make([]byte, session.MaxFrame), "text": []byte("GET / HTTP/1.1\r\n\r\n"),
	} {
		conn := r.dial(self())
		if _, err := conn.Write(frame); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		wantFailure(t, name, receive(conn), session.Protocol)
	}
	conn := r.dial(self())
	if err := conn.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if g := receive(conn); !errors.Is(g.err, io.EOF) {
		t.Errorf("nothing at all: %+v; want the connection's end", g)
	}
	wantSession(t, "the twin", r.login(self()), session.Streams{})
	r.idle()
}

// TestOversized sends more than a frame may be: refused by its length, and the
// caller is told although most of the packet was never read.
func TestOversized(t *testing.T) {
	r := newRig(t)
	conn := r.dial(self())
	raw, err := conn.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	_ = raw.Control(func(fd uintptr) { _ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_SNDBUF, 8<<20) })
	if _, err := conn.Write(make([]byte, session.MaxFrame+1)); err != nil {
		t.Fatal(err)
	}
	wantFailure(t, "oversized", receive(conn), session.Protocol)
	r.idle()
}

// TestDescriptorsRefused sends descriptors to the broker. Its twin is a
// listener that refuses none.
func TestDescriptorsRefused(t *testing.T) {
	frame, err := request().Encode()
	if err != nil {
		t.Fatal(err)
	}
	null, err := os.Open("/dev/null")
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	r := newRig(t)
	conn := r.dial(self())
	before := descriptors(t)
	err = sendRights(conn, frame, []int{int(null.Fd())})
	if err == nil { // before Linux 6.16: they are closed on arrival
		wantSession(t, "with a descriptor", receive(conn), session.Streams{})
		settle(t, before)
		t.Skip("this kernel has no SO_PASSRIGHTS")
	}
	conn.Close()
	if !errors.Is(err, unix.EPERM) {
		t.Errorf("send a descriptor = %v; want EPERM", err)
	}

	path := filepath.Join(t.TempDir(), "s")
	l, err := net.ListenUnix("unixpacket", &net.UnixAddr{Name: path, Net: "unixpacket"})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	twin, err := net.DialUnix("unixpacket", nil, &net.UnixAddr{Name: path, Net: "unixpacket"})
	if err != nil {
		t.Fatal(err)
	}
	defer twin.Close()
	if err := sendRights(twin, frame, []int{int(null.Fd())}); err != nil {
		t.Errorf("the twin, without refuseRights: %v; the test proves nothing", err)
	}
}

// TestPeer asks who called, for callers that are nobody.
func TestPeer(t *testing.T) {
	if uid, err := peer(connected(t, self())); err != nil || uid != self() {
		t.Errorf("peer of ourselves = %d, %v; want %d", uid, err, self())
	}
	// A socket that was never connected: the kernel says (0, -1, -1).
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	f := os.NewFile(uintptr(fd), "unconnected")
	defer f.Close()
	conn, err := net.FileConn(f)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if uid, err := peer(conn.(*net.UnixConn)); err == nil {
		t.Errorf("peer of an unconnected socket = %d; want an error", uid)
	}
	testneed.Root(t)
	for _, tt := range []struct {
		uid uint32
		ok  bool
	}{{1, true}, {1000, true}, {65533, true}, {65534, false}, {65535, true}, {1 << 31, true}, {1<<32 - 2, true}} {
		uid, err := peer(connected(t, tt.uid))
		if (err == nil) != tt.ok || tt.ok && uid != tt.uid {
			t.Errorf("peer of uid %d = %d, %v; want it refused: %v", tt.uid, uid, err, !tt.ok)
		}
	}
}

// connected returns the accepted end of a connection by uid.
func connected(t *testing.T, uid uint32) *net.UnixConn {
	t.Helper()
	dir, err := os.MkdirTemp("", "p")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	l, err := Listen(filepath.Join(dir, "s"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	err = as(uid, func() error {
		conn, err := net.Dial("unixpacket", l.Addr().String())
		if err == nil {
			t.Cleanup(func() { conn.Close() })
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	conn, err := l.AcceptUnix()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

// TestPeerIsTheConnector hands a connection to somebody else: who connected
// counts, whoever holds the socket now.
func TestPeerIsTheConnector(t *testing.T) {
	bob := other(t)
	r := newRig(t)
	conn := r.dial(bob)
	frame, err := request().Encode()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Write(frame); err != nil { // as ourselves
		t.Fatal(err)
	}
	wantSession(t, "bob's connection", receive(conn), session.Streams{})
	if s := r.boxes.starts(); len(s) != 1 || s[0].User.UID != bob {
		t.Errorf("started %+v; want one of uid %d", s, bob)
	}
}

func TestNobodyIsRefused(t *testing.T) {
	testneed.Root(t)
	r := newRig(t)
	if g := r.login(overflowUID); g.err == nil {
		t.Errorf("login of uid %d: %+v; want no answer", overflowUID, g.reply)
	}
	if n := len(r.boxes.starts()); n != 0 {
		t.Errorf("%d containers started for nobody", n)
	}
	if !strings.Contains(r.log.String(), "caller unknown") {
		t.Errorf("log %q names no reason", r.log)
	}
}

// TestPanics has each part fail in the worst way, and logs in afterwards.
func TestPanics(t *testing.T) {
	r := newRig(t)
	r.people.say(func(context.Context) (accounts.Account, error) { panic("account") })
	wantFailure(t, "the directory", r.login(self()), session.Internal)
	r.people.say(nil)
	r.images.set(func(i *images) { i.panic = true })
	wantFailure(t, "the store", r.login(self()), session.Internal)
	r.images.set(func(i *images) { i.panic = false })
	r.boxes.onStart(func(context.Context, sandbox.Spec) error { panic("sandbox") })
	wantFailure(t, "the sandbox", r.login(self()), session.Internal)
	r.idle()
	r.boxes.onStart(nil)
	wantSession(t, "afterwards", r.login(self()), session.Streams{})
	if !strings.Contains(r.log.String(), "BUG: ") {
		t.Errorf("log %q has no panic", r.log)
	}
}

// TestServeEnds: logins under way when the daemon is told to stop get their
// session.
func TestServeEnds(t *testing.T) {
	b := New()
	boxes := &boxes{t: t, running: map[uint32]*box{}, init: honest}
	t.Cleanup(boxes.close)
	r := newRig(t)
	b.Accounts, b.Images, b.Sandboxes, b.Policy, b.Logger = r.Accounts, r.Images, boxes, r.Policy, r.Logger
	dir := t.TempDir()
	l, err := Listen(filepath.Join(dir, "s"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	ctx, cancel := context.WithCancel(context.Background())
	started := make(chan struct{})
	boxes.onStart(func(context.Context, sandbox.Spec) error {
		close(started)
		cancel()
		time.Sleep(10 * time.Millisecond)
		return nil
	})
	served := make(chan error, 1)
	go func() { served <- b.Serve(ctx, l) }()
	conn, err := net.DialUnix("unixpacket", nil, &net.UnixAddr{Name: l.Addr().String(), Net: "unixpacket"})
	if err != nil {
		t.Fatal(err)
	}
	_ = conn.SetDeadline(time.Now().Add(patience))
	frame, err := request().Encode()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Write(frame); err != nil {
		t.Fatal(err)
	}
	<-started
	wantSession(t, "under way", receive(conn), session.Streams{})
	if err := <-served; err != nil {
		t.Errorf("Serve = %v; want nil", err)
	}
}

// TestStopIdle: a login during the farewell of a container waits for its end and
// gets the next one, and others do not notice.
func TestStopIdle(t *testing.T) {
	r := newRig(t)
	uid := other(t)
	wantSession(t, "first", r.login(uid), session.Streams{})
	first := r.boxes.box(uid)
	r.idle()
	second := make(chan got, 1)
	err := r.StopIdle(t.Context(), uid, func() error {
		go func() { second <- r.login(uid) }()
		if !eventually(func() bool { return r.waiting(uid) }) {
			t.Error("the login does not wait")
		}
		if first.ended() || len(second) > 0 {
			t.Errorf("ended: %v, logins: %d; want neither during the farewell", first.ended(), len(second))
		}
		wantSession(t, "another user", r.login(self()), session.Streams{})
		return nil
	})
	if err != nil || !first.ended() {
		t.Errorf("StopIdle = %v; ended: %v", err, first.ended())
	}
	wantSession(t, "during the farewell", <-second, session.Streams{})
	if c := r.boxes.box(uid); c == nil || c == first || c.ended() {
		t.Error("the login has no container that stays")
	}
	r.idle()
}

// waiting says that a login of uid waits for a start or an end.
func (r *rig) waiting(uid uint32) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	u := r.users[uid]
	return u != nil && u.logins > 0 && u.refs > u.logins+1 // who has it is the other one
}

// TestStopIdleNot: nothing ends with a login under way, nor where the farewell
// says so, and who waited is in the container that stayed.
func TestStopIdleNot(t *testing.T) {
	r := newRig(t)
	uid := other(t)
	wantSession(t, "first", r.login(uid), session.Streams{})
	first := r.boxes.box(uid)
	r.idle()
	never := func() error { t.Error("farewell with a login under way"); return nil }
	conn := r.dial(uid) // which asks for nothing yet
	if !eventually(func() bool { r.mu.Lock(); defer r.mu.Unlock(); return r.count == 1 }) {
		t.Fatal("no login is under way")
	}
	if err := r.StopIdle(t.Context(), uid, never); !errors.Is(err, sandbox.ErrBusy) {
		t.Errorf("StopIdle with a login under way = %v; want %v", err, sandbox.ErrBusy)
	}
	conn.Close()
	r.idle()
	second := make(chan got, 1)
	err := r.StopIdle(t.Context(), uid, func() error {
		go func() { second <- r.login(uid) }()
		if !eventually(func() bool { return r.waiting(uid) }) {
			t.Error("the login does not wait")
		}
		return errTest
	})
	if !errors.Is(err, errTest) {
		t.Errorf("StopIdle = %v; want what the farewell said", err)
	}
	wantSession(t, "during the farewell", <-second, session.Streams{})
	if first.ended() || len(r.boxes.starts()) != 1 {
		t.Errorf("ended: %v after %d starts; want the first container to stay", first.ended(), len(r.boxes.starts()))
	}
	// The twin: nobody is there and nothing is said.
	r.idle()
	if err := r.StopIdle(t.Context(), uid, func() error { return nil }); err != nil || !first.ended() {
		t.Errorf("StopIdle = %v; ended: %v", err, first.ended())
	}
}

// TestEnded removes what an ended container left, but not the next one.
func TestEnded(t *testing.T) {
	r := newRig(t)
	wantSession(t, "first", r.login(self()), session.Streams{})
	r.Ended(alice)
	if r.boxes.stopped != 0 {
		t.Error("Ended stopped a container that runs")
	}
	r.boxes.box(alice).end()
	r.Ended(alice)
	if r.boxes.stopped != 1 {
		t.Errorf("Ended removed %d containers; want the ended one", r.boxes.stopped)
	}
	r.idle()
}

// TestStopWaitsForAStart: an administrator's stop does not meet a start.
func TestStopWaitsForAStart(t *testing.T) {
	r := newRig(t)
	begun, proceed := make(chan struct{}), make(chan struct{})
	r.boxes.onStart(func(context.Context, sandbox.Spec) error {
		close(begun)
		<-proceed
		return nil
	})
	done := make(chan got, 1)
	go func() { done <- r.login(self()) }()
	<-begun
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := r.Stop(ctx, alice); !errors.Is(err, context.Canceled) {
		t.Errorf("Stop during a start, given up = %v; want Canceled", err)
	}
	stopped := make(chan error, 1)
	go func() { stopped <- r.Stop(context.Background(), alice) }()
	close(proceed)
	g := <-done
	closeAll(g.fds)
	if err := <-stopped; err != nil {
		t.Error(err)
	}
	if r.boxes.box(alice) != nil {
		t.Error("the container runs on after Stop")
	}
	r.idle()
}
