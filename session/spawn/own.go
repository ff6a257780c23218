package spawn

import (
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/carrel-sh/carrel/session"
)

// own passes on what programs in the container ask about it (session.OwnSocket)
// to carreld, by the connection on which carreld hears of ends, and gives them
// the answer. Init reads nothing out of either: what a command means, and
// whether the user may give it, is carreld's to say.
type own struct {
	fd int // listener

	mu      sync.Mutex
	serial  uint32
	asked   map[uint32]int // connections that wait for an answer
	reading int            // connections that have not asked yet
}

const (
	// maxAsked is how many may wait at a time. One more is sent away.
	maxAsked = 4
	// askTime bounds the question, answerTime the answer: a reset stops the
	// container.
	askTime    = 2 * time.Second
	answerTime = 30 * time.Second
)

// serveOwn listens. Without it users go by their login.
func (s *Server) serveOwn() error {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return os.NewSyscallError("socket", err)
	}
	err = unix.Bind(fd, &unix.SockaddrUnix{Name: session.OwnSocket})
	if err == nil {
		err = unix.Chmod(session.OwnSocket, 0o666)
	}
	if err == nil {
		err = unix.Listen(fd, 16)
	}
	if err != nil {
		_ = unix.Close(fd)
		return &os.PathError{Op: "listen", Path: session.OwnSocket, Err: err}
	}
	s.own.fd, s.own.asked = fd, make(map[uint32]int)
	return s.controls.whenReady(fd, s.acceptOwn)
}

// acceptOwn takes one that asks, on the thread of controls, which must not
// wait for it.
func (s *Server) acceptOwn() {
	conn, _, err := unix.Accept4(s.own.fd, unix.SOCK_CLOEXEC)
	if err != nil {
		return
	}
	s.own.mu.Lock()
	full := len(s.own.asked)+s.own.reading >= maxAsked
	if !full {
		s.own.reading++
	}
	s.own.mu.Unlock()
	if full {
		tellOwn(conn, uint8(session.Busy.Status()), "carrel: others ask already; please try again\n")
		return
	}
	go s.ask(conn)
}

// ask reads the question and passes it on.
func (s *Server) ask(conn int) {
	limit := unix.NsecToTimeval(int64(askTime))
	_ = unix.SetsockoptTimeval(conn, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &limit)
	buf := make([]byte, session.MaxOwn)
	n, err := unix.Read(conn, buf)
	s.own.mu.Lock()
	s.own.reading--
	s.own.serial++
	serial := s.own.serial
	if err == nil && n > 0 {
		s.own.asked[serial] = conn
	}
	s.own.mu.Unlock()
	if err != nil || n <= 0 {
		_ = unix.Close(conn)
		return
	}
	if !s.watch.send(session.Ask{Serial: serial, Text: string(buf[:n])}.Encode()) {
		s.answerOwn(session.Answer{Serial: serial, Status: uint8(session.NoDaemon.Status()), Text: "carrel: " + session.NoDaemon.Sentence("") + "\n"})
		return
	}
	time.AfterFunc(answerTime, func() {
		s.answerOwn(session.Answer{Serial: serial, Status: uint8(session.NoAnswer.Status()), Text: "carrel: " + session.NoAnswer.Sentence("") + "\n"})
	})
}

// answerOwn gives one that asked its answer, unless it has it.
func (s *Server) answerOwn(a session.Answer) {
	s.own.mu.Lock()
	conn, ok := s.own.asked[a.Serial]
	delete(s.own.asked, a.Serial)
	s.own.mu.Unlock()
	if ok {
		tellOwn(conn, a.Status, a.Text)
	}
}

// tellOwn writes an answer, which fits into the socket, and hangs up.
func tellOwn(conn int, status uint8, text string) {
	_ = unix.Sendmsg(conn, append([]byte{status}, text...), nil, nil, unix.MSG_NOSIGNAL|unix.MSG_DONTWAIT)
	_ = unix.Close(conn)
}

// send sends a frame to carreld, false if nobody listens.
func (w *watch) send(frame []byte) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.fd >= 0 && w.sendLocked(frame) == nil
}
