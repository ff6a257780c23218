package attach

import (
	"net"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/carrel-sh/carrel/session"
)

// The end of a session arrives although init closed its end of the control
// socket before it had read a signal, as when both cross each other.
func TestListenSignalUnread(t *testing.T) {
	for _, told := range []bool{true, false} { // the twin: a session that is lost
		pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		s := &attached{control: pair[0], version: session.Version}
		s.signal(unix.SIGTERM)
		if told {
			if _, err := unix.Write(pair[1], session.Exit{Status: 7}.Encode()); err != nil {
				t.Fatal(err)
			}
		}
		_ = unix.Close(pair[1])
		exit, failure, ended := s.listen()
		want, wantFailure := session.Exit{Status: 7}, session.None
		if !told {
			want, wantFailure = session.Exit{}, session.SessionLost
		}
		if exit != want || failure != wantFailure || !ended {
			t.Errorf("told %v: listen = %v, %v, %v; want %v, %v, true", told, exit, failure, ended, want, wantFailure)
		}
		_ = unix.Close(pair[0])
	}
}

// A container that asks for one connection to the agent after another, of an
// agent that does not answer, gets no more than its share.
func TestAgentConnectionsAreBounded(t *testing.T) {
	agent := filepath.Join(t.TempDir(), "agent")
	listener, err := net.Listen("unix", agent) // accepts none
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(pair[0])
	defer unix.Close(pair[1])
	s := &attached{control: pair[0], version: session.Version, agent: agent}
	var asked []int
	for range maxAgents + 5 {
		ends, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		if err := unix.Sendmsg(pair[1], session.Agent(), unix.UnixRights(ends[1]), nil, 0); err != nil {
			t.Fatal(err)
		}
		_ = unix.Close(ends[1])
		asked = append(asked, ends[0])
		if _, _, ended := s.listen(); ended {
			t.Fatal("the session has ended")
		}
	}
	closed := 0
	for _, fd := range asked {
		fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		if n, _ := unix.Poll(fds, 0); n > 0 && fds[0].Revents&unix.POLLHUP != 0 {
			closed++
		}
		_ = unix.Close(fd)
	}
	if closed != 5 {
		t.Errorf("%d of %d connections were refused; want 5", closed, len(asked))
	}
}
