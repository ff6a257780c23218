package broker

import (
	"bytes"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/carrel-sh/carrel/session"
)

// An evil is a carrel-init that its container has taken over. Whatever it
// does, the caller gets a failure, nobody waits for longer than the deadline,
// and no descriptor stays.
type evil struct {
	name string
	init func(*box)
	want session.Failure
}

// sends is an evil that sends these bytes and descriptors.
func sends(frame []byte, fds func() []int) func(*box) {
	return answering(func(conn *net.UnixConn) {
		takeOrder(conn)
		var list []int
		if fds != nil {
			list = fds()
		}
		_ = sendRights(conn, frame, list)
		closeAll(list)
	})
}

// with replaces one of the four descriptors of a session without a terminal.
func with(i int, open func() int) func(*box) {
	return sends((&session.Reply{}).Encode(), func() []int {
		out, rest := ends(session.Streams{})
		closeAll(rest)
		closeAll(out[i : i+1])
		out[i] = open()
		return out
	})
}

func opened(path string, flags int) func() int {
	return func() int {
		fd, err := unix.Open(path, flags|unix.O_CLOEXEC, 0)
		if err != nil {
			panic(err)
		}
		return fd
	}
}

func pipeEnd(i int) func() int {
	return func() int {
		var p [2]int
		if err := unix.Pipe2(p[:], unix.O_CLOEXEC); err != nil {
			panic(err)
		}
		_ = unix.Close(p[1-i])
		return p[i]
	}
}

func memory() int {
	fd, err := unix.MemfdCreate("evil", unix.MFD_CLOEXEC)
	if err != nil {
		panic(err)
	}
	return fd
}

func surplus(n int) func() []int {
	return func() []int {
		out, rest := ends(session.Streams{})
		closeAll(rest)
		for len(out) < n {
			out = append(out, memory())
		}
		closeAll(out[n:])
		return out[:n]
	}
}

func evils(t *testing.T) []evil {
	ok := (&session.Reply{}).Encode()
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	list := []evil{
		{"never accepts", func(*box) {}, session.NoAnswer},
		{"accepts and stalls", answering(func(conn *net.UnixConn) {
			takeOrder(conn)
			_, _ = conn.Read(make([]byte, 1)) // until the broker gives up
		}), session.NoAnswer},
		{"reads nothing", answering(func(conn *net.UnixConn) {
			_ = conn.CloseRead()
		}), session.NoAnswer},
		{"closes at once", answering(func(*net.UnixConn) {}), session.NoAnswer},
		{"closes after the order", answering(func(conn *net.UnixConn) { takeOrder(conn) }), session.NoAnswer},
		{"an empty packet with descriptors", sends(nil, surplus(4)), session.NoAnswer},
		{"garbage", sends([]byte("\x00\xff garbage"), nil), session.NoAnswer},
		{"garbage with descriptors", sends([]byte("garbage"), surplus(4)), session.NoAnswer},
		{"half a reply", sends(ok[:len(ok)-1], surplus(4)), session.NoAnswer},
		{"a request", sends([]byte{session.Version, byte(session.KindRequest)}, nil), session.NoAnswer},
		{"1 MiB", func(c *box) {
			answering(func(conn *net.UnixConn) {
				takeOrder(conn)
				raw, err := conn.SyscallConn()
				if err != nil {
					return
				}
				_ = raw.Control(func(fd uintptr) { _ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_SNDBUF, 4<<20) })
				_ = sendRights(conn, append(bytes.Clone(ok), make([]byte, 1<<20)...), nil)
			})(c)
		}, session.NoAnswer},
		{"a reply that is followed by 2 KiB", sends(append(bytes.Clone(ok), make([]byte, 2048)...), surplus(4)), session.NoAnswer},
		{"a failure that is none of ours", sends((&session.Reply{Failure: 200}).Encode(), nil), 200},
		{"a failure with descriptors", sends((&session.Reply{Failure: session.NoShell}).Encode(), surplus(4)), session.NoShell},
		{"a failure with escape sequences", sends((&session.Reply{Failure: session.NoImage, Detail: "\x1b]0;x\a\n"}).Encode(), nil), session.NoImage},
		{"no descriptor", sends(ok, nil), session.NoAnswer},
		{"a file as stdout", with(2, opened(file, unix.O_RDONLY)), session.NoAnswer},
		{"a directory as stdout", with(2, opened("/", unix.O_RDONLY|unix.O_DIRECTORY)), session.NoAnswer},
		{"a path only", with(2, opened("/", unix.O_PATH)), session.NoAnswer},
		{"a memfd as stdin", with(1, memory), session.NoAnswer},
		{"a device as stdout", with(2, opened("/dev/zero", unix.O_RDONLY)), session.NoAnswer},
		{"a file as control socket", with(0, opened(file, unix.O_RDWR)), session.NoAnswer},
		{"a pipe as control socket", with(0, pipeEnd(0)), session.NoAnswer},
		{"a read end as stdin", with(1, pipeEnd(0)), session.NoAnswer},
		{"a write end as stdout", with(2, pipeEnd(1)), session.NoAnswer},
		{"a write end as stderr", with(3, pipeEnd(1)), session.NoAnswer},
		{"a terminal for a pipe", with(2, opened("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY)), session.NoAnswer},
	}
	for _, n := range []int{1, 2, 3, 5, 8, 9, 253} {
		list = append(list, evil{strconv.Itoa(n) + " descriptors", sends(ok, surplus(n)), session.NoAnswer})
	}
	return list
}

func TestEvilInit(t *testing.T) {
	list := evils(t)
	rigs := make([]*rig, len(list))
	for i, e := range list {
		rigs[i] = newRig(t)
		rigs[i].boxes.init = e.init
		// The container runs already, so that the count below is of logins.
		if _, err := rigs[i].boxes.Start(t.Context(), alicesSpec()); err != nil {
			t.Fatal(err)
		}
	}
	twin := newRig(t)
	wantSession(t, "the twin, an honest init", twin.login(self()), session.Streams{})
	twin.idle()
	before := descriptors(t)
	var logins sync.WaitGroup
	for i, e := range list {
		for range 2 {
			logins.Go(func() { wantFailure(t, e.name, rigs[i].login(self()), e.want) })
		}
	}
	// While two of them stall, others get their sessions.
	for range 20 {
		wantSession(t, "the twin meanwhile", twin.login(self()), session.Streams{})
	}
	logins.Wait()
	for i, r := range rigs {
		if n := len(r.boxes.starts()); n != 1 {
			t.Errorf("%s: %d starts; want none for a container that lives", list[i].name, n-1)
		}
		r.idle()
		if log := r.log.String(); strings.ContainsAny(log, "\x1b\a") {
			t.Errorf("%s: log %q", list[i].name, log)
		}
	}
	settle(t, before)
}

// TestOneStallsAnotherWorks: within one broker, alice's evil init is alice's
// trouble alone.
func TestOneStallsAnotherWorks(t *testing.T) {
	bob := other(t)
	r := newRig(t)
	release := make(chan struct{})
	r.boxes.set(func(b *boxes) {
		b.init = func(c *box) {
			if c.spec.User.UID == bob {
				honest(c)
				return
			}
			answering(func(*net.UnixConn) { <-release })(c)
		}
	})
	stalled := make(chan got, 50)
	for range cap(stalled) {
		go func() { stalled <- r.login(self()) }()
	}
	if !eventually(func() bool { return r.boxes.box(alice) != nil }) {
		t.Fatal("no container")
	}
	for range 50 {
		wantSession(t, "bob", r.login(bob), session.Streams{})
	}
	close(release)
	for range cap(stalled) {
		wantFailure(t, "alice", <-stalled, session.NoAnswer)
	}
	r.idle()
}

// TestFullQueue: an init that does not accept has a listen queue that fills.
func TestFullQueue(t *testing.T) {
	r := newRig(t)
	r.boxes.init = func(*box) {}
	c, err := r.boxes.Start(t.Context(), alicesSpec())
	if err != nil {
		t.Fatal(err)
	}
	raw, err := c.(*box).l.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	_ = raw.Control(func(fd uintptr) { _ = unix.Listen(int(fd), 0) })
	before := descriptors(t)
	conn, err := c.Dial(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if second, err := c.Dial(t.Context()); err == nil {
		second.Close()
		t.Fatal("the queue is not full; the test proves nothing")
	}
	wantFailure(t, "login", r.login(self()), session.NoAnswer)
	conn.Close()
	settle(t, before)
}

// TestQueueDrains is its twin: who waits for a place gets it.
func TestQueueDrains(t *testing.T) {
	r := newRig(t)
	proceed := make(chan struct{})
	r.boxes.init = func(c *box) { <-proceed; honest(c) }
	c, err := r.boxes.Start(t.Context(), alicesSpec())
	if err != nil {
		t.Fatal(err)
	}
	raw, err := c.(*box).l.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	_ = raw.Control(func(fd uintptr) { _ = unix.Listen(int(fd), 0) })
	all := make(chan got, 20)
	for range cap(all) {
		go func() { all <- r.login(self()) }()
	}
	close(proceed)
	for range cap(all) {
		wantSession(t, "one of 20", <-all, session.Streams{})
	}
}

// TestCheck holds each descriptor against what it must be.
func TestCheck(t *testing.T) {
	all := map[string]session.Streams{
		"pipes": {}, "terminal": {Tty: true}, "terminal and stderr": {Tty: true, SplitStderr: true},
	}
	for name, streams := range all {
		fds, rest := ends(streams)
		if err := check(streams, fds); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		for otherName, others := range all {
			if err := check(others, fds); err == nil && otherName != name {
				t.Errorf("descriptors for %s pass for %s", name, otherName)
			}
		}
		closeAll(append(fds, rest...))
	}
	// A terminal's slave is none of its master.
	fds, rest := ends(session.Streams{Tty: true})
	defer closeAll(append(fds, rest...))
	if err := unix.IoctlSetPointerInt(fds[1], unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	peer, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fds[1]), unix.TIOCGPTPEER, unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC)
	if errno != 0 {
		t.Fatal(errno)
	}
	defer unix.Close(int(peer))
	if err := check(session.Streams{Tty: true}, []int{fds[0], int(peer)}); err == nil {
		t.Error("a slave passes for a master")
	}
	if err := check(session.Streams{Tty: true}, []int{fds[0], -1}); err == nil {
		t.Error("no descriptor passes for a master")
	}
}

func TestPing(t *testing.T) {
	c := newBox(t, alicesSpec())
	defer c.end()
	go answering(func(conn *net.UnixConn) {
		buf := make([]byte, 64)
		n, err := conn.Read(buf)
		if err == nil && session.KindOf(buf[:n]) == session.KindPing {
			_, _ = conn.Write(session.Pong{Sessions: 7}.Encode())
		}
	})(c)
	if pong, err := Ping(t.Context(), c); err != nil || pong.Sessions != 7 {
		t.Errorf("Ping = %+v, %v; want 7 sessions", pong, err)
	}
	evil := newBox(t, alicesSpec())
	defer evil.end()
	go answering(func(conn *net.UnixConn) {
		_, _ = conn.Read(make([]byte, 64))
		_, _ = conn.Write(make([]byte, 4096))
	})(evil)
	if pong, err := Ping(t.Context(), evil); err == nil {
		t.Errorf("Ping of garbage = %+v; want an error", pong)
	}
}
