package attach

import (
	"net"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/carrel-sh/carrel/session"
)

// TestRefusedUnread: a daemon that refuses a login without reading the request
// closes its socket over it. The kernel tells that as ECONNRESET, ahead of the
// reply, or to send; the reply counts.
func TestRefusedUnread(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.ListenUnix("unixpacket", &net.UnixAddr{Name: path, Net: "unixpacket"})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	frame, err := (&session.Request{}).Encode()
	if err != nil {
		t.Fatal(err)
	}
	for _, early := range []bool{true, false} {
		fd, failure := dial(path)
		if failure != session.None {
			t.Fatal(failure)
		}
		conn, err := l.AcceptUnix()
		if err != nil {
			t.Fatal(err)
		}
		refuse := func() {
			if _, err := conn.Write((&session.Reply{Failure: session.Busy}).Encode()); err != nil {
				t.Error(err)
			}
			conn.Close()
		}
		if early {
			refuse()
		}
		if err := send(fd, frame); err != nil {
			t.Errorf("send, refused before: %v, %v; want no error", early, err)
		}
		if !early {
			refuse()
		}
		a, failure := receive(fd, session.Streams{})
		if failure != session.None || a.reply.Failure != session.Busy {
			t.Errorf("refused before: %v: receive = %+v, %v; want Busy", early, a, failure)
		}
		_ = unix.Close(fd)
	}
	// The twin: a daemon that dies without a word is not waited for.
	fd, _ := dial(path)
	defer unix.Close(fd)
	conn, err := l.AcceptUnix()
	if err != nil {
		t.Fatal(err)
	}
	if err := send(fd, frame); err != nil {
		t.Fatal(err)
	}
	conn.Close()
	if _, failure := receive(fd, session.Streams{}); failure != session.NoAnswer {
		t.Errorf("reset without a reply: %v; want NoAnswer", failure)
	}
}
