package attach

import (
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/carrel-sh/carrel/session"
)

// fakeDaemon answers each connection with what reply writes.
func fakeDaemon(t *testing.T, reply func(*net.UnixConn)) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.ListenUnix("unixpacket", &net.UnixAddr{Name: path, Net: "unixpacket"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.AcceptUnix()
			if err != nil {
				return
			}
			buf := make([]byte, session.MaxFrame)
			_, _ = c.Read(buf)
			reply(c)
			c.Close()
		}
	}()
	return path
}

func exchange(t *testing.T, path string, streams session.Streams) (*session.Reply, []int, session.Failure) {
	t.Helper()
	fd, failure := dial(path)
	if failure != session.None {
		return nil, nil, failure
	}
	defer unix.Close(fd)
	frame, err := (&session.Request{Streams: streams}).Encode()
	if err != nil {
		t.Fatal(err)
	}
	if err := send(fd, frame); err != nil {
		t.Fatal(err)
	}
	a, failure := receive(fd, streams)
	if a == nil {
		return nil, nil, failure
	}
	return a.reply, a.fds, failure
}

func openFDs(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

func withFDs(n int) func(*net.UnixConn) {
	return func(c *net.UnixConn) {
		var fds []int
		for range n {
			fds = append(fds, 2)
		}
		_, _, _ = c.WriteMsgUnix((&session.Reply{}).Encode(), unix.UnixRights(fds...), nil)
	}
}

func TestReceiveCountsDescriptors(t *testing.T) {
	pipes := session.Streams{}
	_, fds, failure := exchange(t, fakeDaemon(t, withFDs(4)), pipes)
	if failure != session.None || len(fds) != 4 {
		t.Fatalf("receive of 4 descriptors = %v, %v; want them", fds, failure)
	}
	for _, fd := range fds {
		if flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err != nil || flags&unix.FD_CLOEXEC == 0 {
			t.Errorf("descriptor %d: flags %d, %v; want close-on-exec", fd, flags, err)
		}
		unix.Close(fd)
	}
	before := openFDs(t)
	for _, n := range []int{0, 1, 3, 5, 8, 50} {
		_, fds, failure := exchange(t, fakeDaemon(t, withFDs(n)), pipes)
		if failure != session.Protocol || fds != nil {
			t.Errorf("receive of %d descriptors = %v, %v; want %v", n, fds, failure, session.Protocol)
		}
	}
	// Listeners of the fake daemons stay open until the end: one each.
	deadline := time.Now().Add(5 * time.Second)
	for openFDs(t) > before+6 && time.Now().Before(deadline) {
		time.Sleep(10 * time.Millisecond)
	}
	if after := openFDs(t); after > before+6 {
		t.Errorf("%d descriptors open before, %d after", before, after)
	}
}

func TestReceiveRefusesGarbage(t *testing.T) {
	for name, answer := range map[string][]byte{
		"another version": {9, byte(session.KindReply), 0},
		"another kind":    {session.Version, byte(session.KindExit), 0, 0},
		"cut short":       (&session.Reply{Detail: "abc"}).Encode()[:5],
	} {
		path := fakeDaemon(t, func(c *net.UnixConn) { _, _ = c.Write(answer) })
		if _, _, failure := exchange(t, path, session.Streams{}); failure != session.Protocol {
			t.Errorf("%s: receive = %v; want %v", name, failure, session.Protocol)
		}
	}
	path := fakeDaemon(t, func(*net.UnixConn) {})
	if _, _, failure := exchange(t, path, session.Streams{}); failure != session.NoAnswer {
		t.Errorf("no reply at all: receive = %v; want %v", failure, session.NoAnswer)
	}
}

func TestDialWithoutDaemon(t *testing.T) {
	if _, failure := dial(filepath.Join(t.TempDir(), "none")); failure != session.NoDaemon {
		t.Errorf("dial of no socket = %v; want %v", failure, session.NoDaemon)
	}
}

// A full queue refuses at once; dial waits until there is room.
func TestDialWaitsForRoom(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	l, err := unix.Socket(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(l)
	if err := unix.Bind(l, &unix.SockaddrUnix{Name: path}); err != nil {
		t.Fatal(err)
	}
	if err := unix.Listen(l, 0); err != nil {
		t.Fatal(err)
	}
	first, failure := dial(path)
	if failure != session.None {
		t.Fatal(failure)
	}
	defer unix.Close(first)
	probe, err := unix.Socket(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(probe)
	if err := unix.Connect(probe, &unix.SockaddrUnix{Name: path}); err != unix.EAGAIN {
		t.Fatalf("connect to a full queue = %v; want EAGAIN, or this test shows nothing", err)
	}
	go func() {
		time.Sleep(50 * time.Millisecond)
		fd, _, err := unix.Accept(l)
		if err == nil {
			defer unix.Close(fd)
		}
	}()
	second, failure := dial(path)
	if failure != session.None {
		t.Fatalf("dial of a queue that empties = %v", failure)
	}
	unix.Close(second)
}
