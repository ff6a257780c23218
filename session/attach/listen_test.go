package attach

import (
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
