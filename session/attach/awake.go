package attach

import (
	"time"

	"golang.org/x/sys/unix"

	"github.com/carrel-sh/carrel/session"
)

// stirTime is how often carreld is told that the user is there: less often
// than the shortest time after which a container counts as idle, config's
// 10 seconds.
const stirTime = 5 * time.Second

// stir is called for each block that the user or their client sent. Whoever
// sends nothing but a short command is done before it does anything.
func (s *attached) stir() {
	now := time.Now()
	if now.Sub(s.stirred) < stirTime {
		return
	}
	s.stirred = now
	go awake(s.socket, s.version)
}

// awake tells carreld that the user is there. A container that was frozen for
// idleness runs on then, so that what was typed gets its answer. Nobody waits
// for it, and nothing is done if it cannot be told: the next block tells it.
func awake(socket string, version uint8) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return
	}
	defer unix.Close(fd)
	if unix.Connect(fd, &unix.SockaddrUnix{Name: socket}) == nil {
		_ = unix.Sendmsg(fd, session.In(version, session.Awake()), nil, nil, unix.MSG_NOSIGNAL|unix.MSG_DONTWAIT)
	}
}
